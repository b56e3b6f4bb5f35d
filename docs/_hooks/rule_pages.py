"""A page for each rule, made from its declaration, its cases, and the callbacks that speak of it."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator, Sequence

import griffe
from case_source import ROOT, CaseSource, cases_of
from public import Public, speakers
from rich.console import Console
from rule_source import source_of
from texts import as_markdown, fenced, indented, sentence

from lightning_tuning import CATALOGUE, Finding, Rule
from lightning_tuning.cli import KINDS, WITH_CAUSE
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.reporters.layout import announcement
from lightning_tuning.rules._suspects import SUSPECTS, WHY
from tests.cases.recorded import recorded

__all__ = ["HUNDREDS", "address", "helpers_page", "rule_page", "rules_page"]

HUNDREDS = {
    "LT1": "Data and targets",
    "LT2": "Initialization",
    "LT3": "Structure: dropout, normalization, heads, modes",
    "LT4": "Optimizer and regularization",
    "LT5": "Learning rate and schedule",
    "LT6": "Gradients, updates, activations",
    "LT7": "Numbers that are not numbers",
    "LT8": "Learning curves",
    "LT9": "Saving and running",
}
SHORT = {"LT3": "Structure", "LT4": "Optimizer", "LT5": "Learning rate", "LT6": "Gradients", "LT7": "NaN"}

TITLE = "---\nhide: [toc]\n---\n\n# Rules\n"

INTRODUCTION = """\
Codes are stable, never reused, never renumbered, and so are the addresses of their pages: `rules/LT601/`, the code in
capitals. Each shows a run that gives the finding and its cured twin, both from the tests; its figures are those of one
machine, and another rounds in its own way. The search field finds a rule by its code, its name, or words of what went
wrong; on the command line `lightning-tuning rules` lists them, and `lightning-tuning explain LT601` tells of one.
"""

OF_HELPERS = """\
Runs on the pages of rules are made of these, or of classes that stand on their own page. They all learn: a finding in
such a run would be a false alarm.
"""

WIDTH = 76  # columns of a block of text on a page


def address(code: str) -> str:
    """The source of the page of a rule; it is served at ``rules/LT601/``."""
    return f"rules/{code}.md"


def rules_page() -> str:
    """The list of all rules, a table for each hundred."""
    kinds = [f"- **{kind}**: {text.partition(': ')[2]}" for kind, text in KINDS.items()]
    parts = [
        "---\nhide: [toc]\n---\n",
        "# Rules\n",
        f"{len(CATALOGUE)} rules of thumb. {INTRODUCTION}",
        "\n".join(kinds) + "\n",
    ]
    for hundred, title in HUNDREDS.items():
        rows = [
            f"## {hundred}xx {title}\n",
            "| code | name | severity | kind | why |",
            "| --- | --- | --- | --- | --- |",
        ]
        for rule in CATALOGUE.matching(hundred):
            why = as_markdown(first_sentence(rule.why))
            rows.append(f"| [{rule.code}]({rule.code}.md) | {rule.name} | {severity(rule)} | {rule.kind} | {why} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def rule_page(rule: Rule) -> str:
    """The page of ``rule``."""
    source = source_of(rule)
    voices = speakers(rule)
    sections = [
        f"# {rule.code} {rule.name}\n",
        f"{severity(rule)} {chip(rule.kind)} {chip('since ' + rule.since)}\n",
        f"{sentence(source.doc.partition(': ')[2])}\n",
        "## Why it is bad\n",
        f"{sentence(rule.why)}\n",
        "## What to change\n",
        f"{sentence(rule.remedy)}\n",
        "## Example\n",
        *_examples(rule),
        "## How it is judged\n",
        f"{sentence(KINDS[rule.kind])}.\n",
        *source.verdicts(rule),
        *_causes(rule),
        "## Options\n",
        *_options(rule, voices),
        "## How to silence it\n",
        _silence(rule),
        *_explains(rule),
        "## References\n",
        f"{sentence(rule.source)}\n",
        f"Declared in `{source.shown}`.\n",
    ]
    return "\n".join(sections)


def severity(rule: Rule) -> str:
    """As a coloured word."""
    return f'<span class="severity {rule.severity}">{rule.severity}</span>'


def chip(text: str) -> str:
    """As a word on a ground of its own."""
    return f'<span class="fact">{text}</span>'


def first_sentence(text: str) -> str:
    """Of a ``why``."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip(), maxsplit=1)[0]


def _examples(rule: Rule) -> Iterator[str]:
    first, *others = cases_of(rule.code)
    yield sentence(first.doc.removeprefix(f"{rule.code}: ")) + "\n"
    yield from _runs(first)
    seen: set[str] = set()
    yield from _parts(first, seen)
    for other in others:
        yield f'??? example "{other.case.name or "another"}"\n'
        yield indented("\n".join([*_runs(other), *_parts(other, seen)]))


def _parts(source: CaseSource, seen: set[str]) -> Iterator[str]:
    """What the runs are made of, but for what the page has shown already."""
    for file, texts in source.parts.items():
        new = [text for text in texts if text not in seen]
        seen.update(new)
        if new:
            yield fenced("\n\n\n".join(new), title=file, is_searched=False)
    if source.helpers:
        names = ", ".join(f"`{name}`" for name in source.helpers)
        yield f"{names}: see [the nets of the examples](examples.md).\n"


def _runs(source: CaseSource) -> Iterator[str]:
    case = source.case
    finding = Finding.from_dict({**recorded()[str(case)], "evidence": {}})
    yield '!!! failure "Sick"\n'
    yield indented(f"{fenced(source.sick, is_searched=False)}\ngives\n\n{fenced(shown(finding), 'text')}")
    if case.also:
        besides = "; ".join(f"{code} ({as_markdown(why)})" for code, why in case.also.items())
        yield indented(f"Rightly found besides: {besides}.\n")
    yield '!!! success "Cured"\n'
    yield indented(f"{fenced(source.healthy, is_searched=False)}\ngives no finding of severity warning or above.\n")


def shown(finding: Finding) -> str:
    """``finding`` as the terminal shows it."""
    lines = io.StringIO()
    console = Console(file=lines, width=WIDTH, color_system=None, highlight=False)
    console.print(*announcement(finding, console, explain=False), sep="\n")
    return "\n".join(line.rstrip() for line in lines.getvalue().splitlines()).strip()


def _causes(rule: Rule) -> Iterator[str]:
    if rule.code in WITH_CAUSE:
        rows = [f"| `{name}` | {as_markdown(c.meaning)} | {as_markdown(c.remedy)} |" for name, c in CAUSES.items()]
        yield '## What `evidence["cause"]` may be\n'
        yield "\n".join(["| cause | what happened | what to change |", "| --- | --- | --- |", *rows]) + "\n"


def _options(rule: Rule, voices: Sequence[Public]) -> Iterator[str]:
    for one in voices:
        yield f"`{one.name}` speaks of it: {as_markdown(one.summary)}\n"
        yield options_table(one.value)
    if not voices:
        raise ValueError(f"no public callback speaks of {rule.code}: its docstring has to name the code.")


def options_table(kind: type) -> str:
    """The arguments of a class, from its signature and docstring."""
    sections = griffe.Docstring(inspect.getdoc(kind) or "").parse("google", warnings=False)
    described = {
        parameter.name: parameter.description
        for section in sections
        if section.kind is griffe.DocstringSectionKind.parameters
        for parameter in section.value
    }
    rows = []
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        rows.append(f"| `{name}` | {default} | {as_markdown(' '.join(described.get(name, '').split()))} |")
    if not rows:
        return "It takes no arguments.\n"
    return "\n".join(["| argument | default | |", "| --- | --- | --- |", *rows]) + "\n"


def _silence(rule: Rule) -> str:
    has_line = any(recorded()[str(source.case)]["source_line"] for source in cases_of(rule.code))
    texts = [
        "In the code:\n",
        fenced(f'TuningSuite(ignore=["{rule.code}"])'),
        "For a project, in `pyproject.toml`:\n",
        fenced(f'[tool.lightning-tuning]\nignore = ["{rule.code}"]', "toml"),
        "For one run:\n",
        fenced(f"LIGHTNING_TUNING=recommended,-{rule.code} python train.py", "sh"),
    ]
    if has_line:
        texts += [
            "On one line of the model, where the finding names a line:\n",
            fenced(f"...  # tuning: ignore[{rule.code}] the reason"),
        ]
    return "\n".join(texts)


def _explains(rule: Rule) -> Iterator[str]:
    outcomes = [outcome for outcome, codes in SUSPECTS.items() if rule.code in codes]
    causes = SUSPECTS.get(rule.code, ())
    if outcomes:
        listed = ", ".join(f"{code} {CATALOGUE[code].name}" for code in outcomes)
        yield "## What it may explain\n"
        yield f"{listed}: {as_markdown(WHY[rule.code])}.\n"
    if causes:
        yield "## What may explain it\n"
        yield "The likeliest first:\n"
        yield "\n".join(f"1. {code} {CATALOGUE[code].name}: {as_markdown(WHY[code])}" for code in causes) + "\n"


def helpers_page() -> str:
    """The nets and data that examples are made of, ``tests/helpers.py``, without its docstring."""
    text = (ROOT / "tests" / "helpers.py").read_text(encoding="utf-8")
    code = fenced(text.split('"""', 2)[2], title="tests/helpers.py", is_searched=False)
    return f"# The nets of the examples\n\n{OF_HELPERS}\n{code}"
