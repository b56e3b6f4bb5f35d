"""A theme: several runs side by side, a table of what came of them, and one picture.

``demos/schedules.py`` and its like give :func:`main` a function that trains on a :class:`~mnist_training.Bench` and
returns a :class:`Theme`; this file has the rest, so that all of them look and behave alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from command import add_bench_arguments, open_bench
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mnist_training import Bench
from rich import box
from rich.markup import escape
from rich.table import Table

PICTURES = Path(__file__).resolve().parent / "pictures"


@dataclasses.dataclass(frozen=True)
class Theme:
    """What was compared.

    Args:
        columns: headings of the table; the first names the run, the others are figures.
        rows: a row for each run, as text.
        figure: from :func:`new_figure`.
        verdict: what the figures say, in a sentence or two made from them.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    figure: Figure
    verdict: str


class Curve(pl.Callback):
    """Training loss of every batch, and every validation, of one run.

    Attributes:
        losses: one for each batch, as ``training_step`` returned it.
        rates: learning rate of the first parameter group, for each batch.
        validations: the metrics that were logged, as floats, after each validation.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.validations: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss and the rate."""
        self.losses.append(float(outputs["loss"]))
        self.rates.append(float(trainer.optimizers[0].param_groups[0]["lr"]))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the metrics."""
        self.validations.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def smooth(self, window: int = 20) -> list[float]:
        """Means of the last ``window`` losses, which show a trend that single batches hide."""
        means = []
        for end in range(1, len(self.losses) + 1):
            part = self.losses[max(0, end - window) : end]
            means.append(sum(part) / len(part))
        return means


def new_figure(width: float = 10.0, height: float = 4.0) -> Figure:
    """An empty picture in inches, drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def main(name: str, description: str, tell: Callable[[Bench], Theme], arguments: Sequence[str] | None = None) -> int:
    """Run the theme called ``name`` as the command line asks; the exit code of the process."""
    parser = argparse.ArgumentParser(description=description)
    add_bench_arguments(parser)
    parser.add_argument(
        "--picture", type=Path, default=PICTURES / f"{name}.png", help="where it goes (default: %(default)s)"
    )
    asked = parser.parse_args(arguments)
    bench = open_bench(asked, name)
    if bench is None:
        return 1
    start = time.perf_counter()
    bench.console.rule(f"[bold]{name}")
    bench.say(f"{escape(description)}\n")
    theme = tell(bench)
    bench.console.print()
    bench.console.print(_table(theme))
    bench.say(escape(theme.verdict))
    asked.picture.parent.mkdir(parents=True, exist_ok=True)
    theme.figure.savefig(asked.picture, dpi=120)
    seconds = time.perf_counter() - start
    bench.say(f"\nPicture: {escape(str(asked.picture))}. {seconds:.0f} seconds (torch threads: {asked.threads})")
    return 0


def _table(theme: Theme) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(theme.columns):
        table.add_column(column, justify="right" if place else "left", style="" if place else "bold", overflow="fold")
    for row in theme.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
