"""What is remembered of a call until it has returned, and of a custom function until its result is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_tuning.trace._modules import Running
from lightning_tuning.trace._names import Call
from lightning_tuning.trace._source import Caller

__all__ = ["Custom", "Step"]


class Custom(NamedTuple):
    """A call of a custom autograd function, as seen from an operation within its forward pass."""

    function: type
    inputs: tuple[int, ...]
    source_line: str | None
    running: Running
    checkpoint: bool


class Step(NamedTuple):
    """An operation between its call and its result; lives for the call only, so it may hold tensors."""

    call: Call
    caller: Caller
    running: Running
    grad_enabled: bool
    read: Sequence[Tensor] = ()
    written: Sequence[Tensor] = ()
    inputs: tuple[int, ...] = ()
    arguments: dict[str, Any] = {}  # noqa: RUF012 (nobody writes into it)
    custom: Custom | None = None
