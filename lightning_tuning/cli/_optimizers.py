"""``lightning-tuning explain optimizers``: the comparison as a table and a card for each."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_tuning.findings.optimizers import OPTIMIZERS, OptimizerFacts

__all__ = ["WORD", "optimizer_comparison"]

WORD = "optimizers"
"""What is asked for."""


def optimizer_comparison(width: int) -> list[RenderableType]:
    """The renderables, of at most ``width`` columns.

    Example:
        >>> len(optimizer_comparison(100)) > len(OPTIMIZERS)
        True
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("optimizer", "state", "lr of torch", "usual lr", "decay", "first step"):
        table.add_column(column, overflow="fold")  # figures are never cut short
    for name, facts in OPTIMIZERS.items():
        table.add_row(
            Text(name, "bold"),
            Text(f"{facts.states} numbers" if facts.states != 1 else "1 number"),
            Text(f"{facts.default_lr:g}"),
            Text(f"{facts.usual_lr[0]:g} to {facts.usual_lr[1]:g}"),
            Text(f"{facts.default_decay:g}"),
            Text(_first_step(facts)),
        )
    about = "state: numbers of 4 bytes per weight. decay: torch's default for weight_decay. first step: of a weight."
    parts: list[RenderableType] = [Text("Optimizers of torch", "bold"), Text(), table, Text(about, "dim"), Text()]
    for name, facts in OPTIMIZERS.items():
        card = Table.grid(padding=(0, 2, 0, 0))
        card.add_column(style="dim", no_wrap=True)
        card.add_column(overflow="fold", max_width=width - 12)
        for label, text in (
            ("take it", facts.take),
            ("trap", facts.trap),
            ("decay", facts.decay + "."),
            ("source", facts.source),
        ):
            card.add_row(Text(label), Text(text))
        parts += [Text(name, "bold"), card, Text()]
    parts.append(Text("To find a rate: `lightning-tuning lr module:Class`. To measure them: demos/optimizers.py."))
    return parts


def _first_step(facts: OptimizerFacts) -> str:
    times = "" if facts.first_step == 1 else f"{facts.first_step:.2g} x "
    return f"{times}lr x gradient" if facts.scales else f"{times}lr"
