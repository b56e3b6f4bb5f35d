"""A page for each public name: callbacks and mixins, and what they speak in; by mkdocstrings, from the docstrings."""

from __future__ import annotations

import importlib

from public import Public, rooms, title
from texts import as_markdown

__all__ = ["callback_page", "callbacks_page"]

INTRODUCTION = """\
Each works alone in `Trainer(callbacks=[...])`. Checks and monitors only look; guards and treatments act, and say in the
closing summary what they did. All are imported from the top: `from lightning_tuning import NanLossGuard`.
"""


def callbacks_page() -> str:
    """The list of all, a table for each room."""
    parts = ["---\nhide: [toc]\n---\n", "# Callbacks\n", INTRODUCTION]
    for room, names in rooms().items():
        doc = " ".join((importlib.import_module(f"lightning_tuning.{room}").__doc__ or "").split("\n\n")[0].split())
        rows = [f"## {title(room)}\n", f"{as_markdown(doc)}\n", "| | what it does | rules |", "| --- | --- | --- |"]
        for one in names:
            codes = " ".join(rule.code for rule in one.rules)
            rows.append(f"| [`{one.name}`]({one.name}.md) | {as_markdown(one.summary)} | {codes} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def callback_page(one: Public) -> str:
    """The page of a public name."""
    members = "".join(f"\n        - {name}" for name in one.members()) or " []"
    lines = (
        []
        if one.is_documented
        else [f"# {one.name}\n", f"`from lightning_tuning import {one.name}`; it is of this type:\n"]
    )
    lines += [
        f"::: {one.identifier}",
        "    options:",
        f"      heading_level: {1 if one.is_documented else 2}",
        "      show_root_heading: true",
        "      show_root_full_path: false",
        f"      members:{members}\n",
    ]
    if one.rules:
        lines += ["## Rules that it speaks of\n", "| code | name | severity |", "| --- | --- | --- |"]
        lines += [f"| {rule.code} | {rule.name} | {rule.severity} |" for rule in one.rules]
    return "\n".join(lines) + "\n"
