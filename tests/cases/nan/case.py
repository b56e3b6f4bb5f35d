"""What a case of a loss or gradient that is not finite is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from tests.helpers import CLASSES, TinyModule

INF = float("inf")
MARK = "# <- here"


class Sick(TinyModule):
    """Logits from a small net, then whatever :meth:`loss` makes of them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("mask", torch.tensor([0.0, -INF, 0.0]))

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(*batch)


@dataclass(frozen=True)
class NanCase:
    """A LightningModule with one marked line, which makes the first number that is not finite.

    Attributes:
        module: the class.
        cause: that ``evidence["cause"]`` must name.
        kind: in which pass the numbers are lost; ``"backward"`` with a finite loss is LT702.
        op: that ``evidence["op"]`` must name, where it matters.
        detail: a piece of the message.
        bf16: whether it is also run under bf16-mixed; false where the values at fault are rounded away, or where the
            case brings its own precision.
        trainer: arguments of ``quiet_trainer``.
    """

    module: type[Sick]
    cause: str
    kind: str = "forward"
    op: str | None = None
    detail: str = ""
    bf16: bool = True
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.module.__name__

    @property
    def line(self) -> str:
        """``"division.py:12"``, the marked line."""
        lines, start = inspect.getsourcelines(self.module)
        (marked,) = [start + offset for offset, line in enumerate(lines) if line.rstrip().endswith(MARK)]
        return f"{Path(inspect.getfile(self.module)).name}:{marked}"


NAN_CASES: list[NanCase] = []

_Module = TypeVar("_Module", bound=type[Sick])


def sick(cause: str, **more: Any) -> Callable[[_Module], _Module]:
    """Make the class that follows a case of ``cause``; ``more`` are fields of :class:`NanCase`."""

    def register(module: _Module) -> _Module:
        NAN_CASES.append(NanCase(module, cause, **more))
        return module

    return register


@dataclass(frozen=True)
class Culprit:
    """A run whose data, weights, learning rate or loop is to blame, not an operation.

    Attributes:
        name: of the case.
        module: makes the LightningModule.
        code: of the finding.
        cause: that its evidence names.
        said: pieces of its message.
        where: ``Finding.where``, where it matters.
        remedy: a piece of it.
        trainer: arguments of ``quiet_trainer``.
        callbacks: makes callbacks of the user's own.
    """

    name: str
    module: Callable[[], pl.LightningModule]
    code: str
    cause: str
    said: tuple[str, ...] = ()
    where: str | None = None
    remedy: str = ""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list

    def __str__(self) -> str:
        return self.name
