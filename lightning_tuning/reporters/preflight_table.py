"""How the verdicts of the trials before a run look in a terminal: a table, and under it the suspects of a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_tuning.findings import Finding, Outcome, Verdict
from lightning_tuning.reporters.layout import hung

__all__ = ["preflight_table"]

STYLES: dict[Outcome, str] = {"passed": "green", "failed": "bold red", "undecided": "yellow", "not applicable": "dim"}
WIDEST = 120  # columns: longer lines are hard to read, however wide the screen
SUSPECTS_SHOWN = 5


def preflight_table(
    verdicts: Sequence[Verdict], suspects: Sequence[Finding], console: Console
) -> Iterator[RenderableType]:
    """The lines of a preflight.

    Args:
        verdicts: one row each.
        suspects: findings that may explain what failed, the likeliest first; the first five are named.
        console: where it will be printed; the table is as wide as that, up to 120 columns.

    Example:
        >>> console = Console(width=70)
        >>> for line in preflight_table([Verdict("loss scaling", "passed", "x1.00 as the batch doubles")], [], console):
        ...     console.print(line)  # doctest: +NORMALIZE_WHITESPACE
        preflight: 1 passed
        <BLANKLINE>
        trial         verdict  measured
        ──────────────────────────────────────────────────────────────────────
        loss scaling  passed   x1.00 as the batch doubles
        <BLANKLINE>
    """
    failed = [verdict for verdict in verdicts if verdict.outcome == "failed"]
    yield Text.assemble("preflight: ", (_counts(verdicts), "bold" if failed else "green"))
    yield Text()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, width=min(console.width, WIDEST))
    table.add_column("trial", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("measured", ratio=1, overflow="fold")
    for verdict in verdicts:
        name = Text.assemble(verdict.name, (f" {verdict.code}" if verdict.code else "", "dim"))
        dull = "dim" if verdict.outcome == "not applicable" else ""
        table.add_row(name, Text(verdict.outcome, STYLES[verdict.outcome]), Text(verdict.sentence, dull))
    yield table
    yield Text()
    if failed and suspects:
        yield Text("suspects, the likeliest first:")
        for number, finding in enumerate(suspects[:SUSPECTS_SHOWN], start=1):
            yield from hung(Text(f"  {number}. {finding.headline()}"), console)
        yield Text()


def _counts(verdicts: Sequence[Verdict]) -> str:
    """``"1 failed, 4 passed, 2 not applicable"``."""
    order: tuple[Outcome, ...] = ("failed", "passed", "undecided", "not applicable")
    counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in order}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
