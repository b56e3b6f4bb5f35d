"""How findings look in a terminal: the lines of one as it comes, and the table of all at the end.

Everything is set as ``Text``, never as markup: ``[bold]`` in the name of a module is a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_tuning.findings import Diagnosis, Finding, Severity
from lightning_tuning.reporters.words import counted, plural

__all__ = ["announcement", "hung", "path_lines", "summary"]

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "cyan"}
WIDEST = 120  # columns: longer lines are hard to read, however wide the screen
ROOMY = 100  # columns from which code and steps get columns of their own
SUSPECTS_SHOWN = 5  # the sixth is not likely
FOLDED_SHOWN = 3  # of the findings below the severity that is told


def announcement(finding: Finding, console: Console, *, explain: bool) -> Iterator[RenderableType]:
    """The lines of one finding as it comes; with ``explain``, where to read more about its code."""
    headline = Text.assemble(_severity(finding), f" {finding.code} ", (finding.name, "bold"))
    headline.append(f" at {finding.where}" if finding.where else "")
    headline.append(f" ({finding.source_line})" if finding.source_line else "", "dim")
    headline.append(f", {finding.steps()}" if finding.steps() else "")
    yield from hung(headline, console)
    yield from hung(Text("  " + finding.message), console)
    if finding.remedy:
        yield from hung(Text(f"  remedy: {finding.remedy}", "dim"), console)
    if explain:
        yield from hung(Text(f"  more: lightning-tuning explain {finding.code}", "dim"), console)
    yield Text()


def summary(
    findings: Sequence[Finding],
    notes: Sequence[str],
    min_severity: Severity,
    console: Console,
    diagnosis: Diagnosis | None = None,
) -> Iterator[RenderableType]:
    """The end of a run: a table of what reached ``min_severity``, a few words on the rest, and what was done.

    Of one that went wrong also how, and what may explain it.
    """
    findings = sorted(findings, key=lambda f: (-f.severity, f.code, f.step or 0, f.where))
    told = [finding for finding in findings if finding.severity >= min_severity]
    folded = findings[len(told) :]
    yield Text.assemble("lightning-tuning: ", (_counts(findings, min_severity), "bold" if told else "green"))
    if told:
        yield Text()
        yield _table(told, console)
        yield Text()
    for finding in folded[:FOLDED_SHOWN]:
        yield from hung(Text.assemble("  ", _severity(finding), f" {finding.headline()}"), console)
    if more := folded[FOLDED_SHOWN:]:
        kind = "info" if more[0].severity is Severity.INFO else "finding"
        yield from hung(Text(f"  and {plural(len(more), f'more {kind}')}: {_explain(more)}", "dim"), console)
    elif folded and not told:
        yield from hung(Text(f"  more: {_explain(folded)}", "dim"), console)
    if diagnosis is not None:
        if folded:
            yield Text()
        outcome, *suspects = diagnosis.lines()
        yield from hung(Text(outcome, "bold"), console)
        for line in suspects[:SUSPECTS_SHOWN]:
            yield from hung(Text(f"  {line}"), console)
        if told or notes:
            yield Text()
    if notes:
        if folded and diagnosis is None:
            yield Text()
        yield Text("what was done:")
        for note in notes:
            yield from hung(Text(f"- {note}"), console)
    if told:
        yield from hung(Text(f"more: {_explain(told)}", "dim"), console)


def _table(findings: Sequence[Finding], console: Console) -> Table:
    roomy = console.width >= ROOMY
    width = _width(console)
    place_width = width // 4
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, leading=1, width=width)
    for heading in ("severity", "code") if roomy else ("found",):
        table.add_column(heading, no_wrap=True)
    table.add_column("where", overflow="fold", max_width=place_width)
    table.add_column("what", ratio=1, overflow="fold")
    if roomy:
        table.add_column("seen", max_width=16)
    for finding in findings:
        severity = Text.assemble(_severity(finding))
        place = finding.where or ("" if finding.source_line else "the run")
        where = Text(path_lines(place, place_width))
        if finding.source_line:
            where.append(("\n" if place else "") + path_lines(finding.source_line, place_width), "dim")
        what = Text.assemble((finding.name, "bold"), f"\n{finding.message}")
        if finding.remedy:
            what.append(f"\nremedy: {finding.remedy}", "dim")
        seen = finding.steps()
        if roomy:
            table.add_row(severity, finding.code, where, what, seen)
        else:
            where.append(f"\n{seen}" if seen else "", "dim")
            table.add_row(severity.append(f"\n{finding.code}", "default"), where, what)
    return table


def _counts(findings: Sequence[Finding], min_severity: Severity) -> str:
    """``"1 error, 2 warnings, 5 infos"``, ``"no warnings, 5 infos"`` or ``"no findings"``."""
    calm = bool(findings) and max(f.severity for f in findings) < min_severity
    return f"no {min_severity}s, {counted(findings)}" if calm else counted(findings)


def hung(text: Text, console: Console) -> Iterator[Text]:
    """``text`` in lines of the console's width; the second and all later ones are indented a little deeper."""
    lead = len(text.plain) - len(text.plain.lstrip()) + 2
    for number, line in enumerate(text.wrap(console, max(1, _width(console) - lead))):
        line.rstrip()
        yield Text(" " * lead if number else "") + line


def path_lines(path: str, width: int) -> str:
    """``path`` in lines of ``width`` characters, broken behind a dot, colon or slash where it can be."""
    lines = [""]
    for piece in re.split(r"(?<=[.:/])", path):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _severity(finding: Finding) -> tuple[str, str]:
    return str(finding.severity), STYLES[finding.severity]


def _explain(findings: Sequence[Finding]) -> str:
    return " ".join(["lightning-tuning explain", *dict.fromkeys(finding.code for finding in findings)])


def _width(console: Console) -> int:
    return min(console.width, WIDEST)
