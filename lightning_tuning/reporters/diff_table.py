"""How two runs that are compared look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_tuning.findings import Finding
from lightning_tuning.reporters.layout import STYLES, hung, path_lines
from lightning_tuning.reporters.loss_ends import LossEnds
from lightning_tuning.reporters.run_diff import Change, RunDiff

__all__ = ["diff_table"]

WIDEST = 120  # columns: longer lines are hard to read, however wide the screen
STYLE = {"new": "bold red", "worse": "bold red", "better": "green", "gone": "green", "same": "dim"}


def diff_table(diff: RunDiff, before: str, after: str, console: Console) -> Iterator[RenderableType]:
    """The lines of a comparison: what changed, the worst first; what did not; the losses; and what else differs.

    Args:
        diff: see :func:`~lightning_tuning.reporters.run_diff.compare_runs`.
        before: what to call the first run.
        after: what to call the second.
        console: where it will be printed; at most 120 columns of it are used.

    Example:
        >>> console = Console(width=60)
        >>> for line in diff_table(RunDiff([], [], []), "runs/a", "runs/b", console):
        ...     console.print(line)
        runs/a -> runs/b: no findings in either
    """
    worse, better, same = diff.changes(1), diff.changes(-1), diff.changes(0)
    counts = {"new": diff.new, "worse": worse, "better": better, "gone": diff.gone, "same": same}
    words = [f"{len(found)} {name}" for name, found in counts.items() if found]
    verdict = (", ".join(words) or "no findings in either", "bold red" if diff.is_worse() else "bold green")
    yield from hung(Text.assemble(f"{before} -> {after}: ", verdict), console)
    if diff.new or diff.gone or worse or better:
        yield Text()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, leading=1, width=min(console.width, WIDEST))
        table.add_column("", no_wrap=True)
        table.add_column("code", no_wrap=True)
        place_width = min(console.width, WIDEST) // 4
        table.add_column("where", overflow="fold", max_width=place_width)
        table.add_column("what", ratio=1, overflow="fold")
        for name, found in (("new", diff.new), ("worse", worse), ("better", better), ("gone", diff.gone)):
            for one in found:
                _add(table, name, one, place_width)
        yield table
    if same:
        yield Text()
        codes = ", ".join(dict.fromkeys(f"{change.after.code} {change.after.name}" for change in same))
        yield from hung(Text(f"the same in both: {codes}", "dim"), console)
    if diff.losses:
        yield Text()
        yield _losses(diff.losses)
    if diff.settings:
        yield Text()
        for name, (one, other) in diff.settings.items():
            yield from hung(Text(f"{name}: {one} -> {other}", "dim"), console)


def _add(table: Table, name: str, one: Finding | Change, place_width: int) -> None:
    finding = one.after if isinstance(one, Change) else one
    what = Text.assemble((str(finding.severity), STYLES[finding.severity]), f" {finding.name}")
    if isinstance(one, Change):
        what.append(f"\n{one.why}", "bold")
    what.append(f"\n{finding.message}")
    if name != "gone" and finding.remedy:
        what.append(f"\nremedy: {finding.remedy}", "dim")
    where = Text(path_lines(finding.where or ("" if finding.source_line else "the run"), place_width))
    if finding.source_line:
        where.append(("\n" if finding.where else "") + path_lines(finding.source_line, place_width), "dim")
    table.add_row(Text(name, STYLE[name]), Text(finding.code), where, what)


def _losses(losses: Mapping[str, tuple[LossEnds, LossEnds]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("loss", overflow="fold")
    for heading in ("final", "best", "at step"):
        table.add_column(heading, no_wrap=True)
    for name, (before, after) in losses.items():
        steps = ["-" if ends.step is None else str(ends.step) for ends in (before, after)]
        cells = (
            f"{before.final:.4g} -> {after.final:.4g}",
            f"{before.best:.4g} -> {after.best:.4g}",
            " -> ".join(steps),
        )
        table.add_row(Text(name), *map(Text, cells))
    return table
