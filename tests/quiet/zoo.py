"""What a net of the quiet suite is, and where the nets lie."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Goal:
    """What the net has to reach, so that nobody can say it did not learn.

    Attributes:
        metric: a name in ``trainer.callback_metrics``, measured on data that the net was not trained on.
        at_least: the smallest value that counts as learnt.
        at_most: the largest one.
    """

    metric: str
    at_least: float = -math.inf
    at_most: float = math.inf

    def __str__(self) -> str:
        bounds = [f">= {self.at_least:g}"] * (self.at_least > -math.inf)
        bounds += [f"<= {self.at_most:g}"] * (self.at_most < math.inf)
        return f"{self.metric} {' and '.join(bounds)}"

    def is_met_by(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most


@dataclass(frozen=True)
class Net:
    """A healthy training run.

    Attributes:
        name: what it is, in snake case.
        module: makes the LightningModule; the RNGs are seeded before.
        goal: see :class:`Goal`.
        data: makes the arguments of ``Trainer.fit`` after the module (loaders or a datamodule), where the module does
            not bring its own.
        trainer: arguments of ``quiet_trainer``.
        callbacks: makes the user's own callbacks.
        settles: the loss reaches its plateau within the first third of the run, and stays there.
    """

    name: str
    module: Callable[[], pl.LightningModule]
    goal: Goal
    data: Callable[[], tuple[Any, ...]] = tuple
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list
    settles: bool = False

    def __str__(self) -> str:
        return self.name


def nets() -> list[Net]:
    """Every net there is: the lists ``NETS`` of the files ``zoo_*.py``."""
    files = sorted(HERE.glob("zoo_*.py"))
    return [net for path in files for net in importlib.import_module(f"tests.quiet.{path.stem}").NETS]
