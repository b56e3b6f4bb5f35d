"""Writes the parts of pages that are tables of what the code knows, between ``<!-- name:begin -->`` and its end.

Symptoms and suspects come from ``lightning_tuning/rules/_suspects.py``, causes from ``findings/causes.py``, rules from
their declarations. A test holds the pages against fresh ones; after a change there:

    python docs/_generated.py
"""

# ruff: noqa: INP001  # a script beside the pages it writes

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lightning_tuning.rules  # noqa: F401  # fills the catalogue
from lightning_tuning.findings import CATALOGUE
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.rules._suspects import SUSPECTS, WHY

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "symptoms.md", ROOT / "README.zh-CN.md")

SHOWN = 12
"""Suspects in the table of a symptom; the whole order is in the last table of the page."""

NO_NUMBERS = ("LT701", "LT702", "LT703")
"""A loss that is NaN has a section of its own."""

SEEN = {  # what a person sees of the outcome that the run is told of
    "LT801": "it does not fall",
    "LT805": "one answer for all",
    "LT802": "it runs away",
    "LT807": "it leaps",
    "LT803": "it swings",
    "LT806": "it is slow",
    "LT804": "bad validation",
}


def table(*rows: Iterable[str]) -> str:
    """``rows`` in Markdown, the first of them the heading."""
    heading, *others = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *others))


def suspects(outcome: str) -> str:
    """The likeliest causes of an outcome: how each brings it about, and what to change."""
    rules = [CATALOGUE[code] for code in SUSPECTS[outcome] if code not in NO_NUMBERS][:SHOWN]
    rows = [(f"{rule.code} {rule.name}", WHY[rule.code], rule.remedy) for rule in rules]
    return table((f"{outcome}, likeliest first", "how it brings that about", "what to change"), *rows)


def explains() -> str:
    """Every suspect, and its place among those of each outcome."""
    places = {outcome: {code: place for place, code in enumerate(order, 1)} for outcome, order in SUSPECTS.items()}
    rows = []
    for code, why in sorted(WHY.items()):
        explained = [f"{seen} ({places[outcome][code]})" for outcome, seen in SEEN.items() if code in places[outcome]]
        rows.append((f"{code} {CATALOGUE[code].name}", why, ", ".join(explained)))
    return table(("finding", "how it keeps a run from learning", "what it explains"), *rows)


def causes() -> str:
    """Why a number is not finite."""
    rows = [(f"`{name}`", cause.meaning, cause.remedy) for name, cause in CAUSES.items()]
    return table(("cause", "what happened", "what to change"), *rows)


def rules_in_chinese() -> str:
    """Every rule, without its reason, which stands in English in one place alone."""
    rows = [(rule.code, rule.name, str(rule.severity), rule.kind) for rule in CATALOGUE]
    return table(("编号", "名称", "级别", "类别"), *rows)


PARTS: dict[str, Callable[[], str]] = {
    **{f"suspects-{outcome}": functools.partial(suspects, outcome) for outcome in SUSPECTS},
    "explains": explains,
    "causes": causes,
    "rules": rules_in_chinese,
}


def parts_of(text: str) -> Iterator[str]:
    """The names of the parts that a page has."""
    return (found[1] for found in re.finditer(r"<!-- ([\w-]+):begin -->", text))


def refreshed(text: str) -> str:
    """A page with all its parts written anew."""
    return re.sub(
        r"<!-- ([\w-]+):begin -->\n.*?<!-- \1:end -->",
        lambda found: f"<!-- {found[1]}:begin -->\n\n{PARTS[found[1]]()}\n\n<!-- {found[1]}:end -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
