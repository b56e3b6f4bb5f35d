"""The parts of a graph: operations, and the values between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

__all__ = ["Op", "Value", "ValueKind", "make"]

_T = TypeVar("_T")

ValueKind = Literal["batch", "parameter", "buffer", "intermediate", "constant"]


@dataclass(frozen=True)
class Value:
    """What is known of one tensor at one moment; an in-place write makes a new value of the same tensor.

    Attributes:
        index: its place in ``Graph.values``.
        kind: where it comes from: the ``"batch"``, a ``"parameter"`` or ``"buffer"`` of the module, an operation
            (``"intermediate"``), or neither (``"constant"``: made in the step by ``torch.zeros`` or such, or brought
            along from outside). Parameters and buffers stay that when an operation writes into them.
        name: dotted name of a parameter or buffer, key path of a batch tensor (``"batch['image']"``), or how a constant
            was made (``"randn"``).
        shape: sizes, outermost first; ``()`` is a scalar.
        dtype: element type.
        device: where it lives.
        requires_grad: whether autograd followed it at that moment.
        producer: index of the operation that made it; ``None`` for what was there before.
    """

    index: int
    kind: ValueKind
    name: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    producer: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The value as plain JSON types."""
        return {
            "index": self.index,
            "kind": self.kind,
            "name": self.name,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "requires_grad": self.requires_grad,
            "producer": self.producer,
        }


@dataclass(frozen=True)
class Op:
    """One operation, at the level a person thinks in (``F.relu``, ``torch.relu`` and ``x.relu_()`` are all ``"relu"``).

    Attributes:
        index: its place in ``Graph.ops``, which is the order of execution.
        name: canonical name, in lower case (``"conv2d"``, ``"batch_norm"``, ``"add"``); of a custom
            ``autograd.Function`` its class name.
        module: dotted path of the innermost module that was running; ``""`` is the traced module itself.
        module_type: class name of that module.
        source_line: ``"file.py:123"`` of the nearest line of the user's code, ``None`` where there is none.
        inputs: indices of the values read, in the order of the arguments.
        outputs: indices of the values made.
        parameters: dotted names of the parameters among the inputs.
        arguments: the scalars that give the operation its meaning (``{"p": 0.5, "training": True}``).
        inplace: whether it wrote into a tensor that was there before.
        grad_enabled: whether autograd was recording.
        training: the training flag of that module.
    """

    index: int
    name: str
    module: str
    module_type: str
    source_line: str | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    inplace: bool = False
    grad_enabled: bool = True
    training: bool = True

    def __hash__(self) -> int:
        return self.index  # the arguments are a dict

    def to_dict(self) -> dict[str, Any]:
        """The operation as plain JSON types; numbers that JSON lacks (``inf``) become text."""
        return {
            "index": self.index,
            "name": self.name,
            "module": self.module,
            "module_type": self.module_type,
            "source_line": self.source_line,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "parameters": list(self.parameters),
            "arguments": {name: _plain(value) for name, value in self.arguments.items()},
            "inplace": self.inplace,
            "grad_enabled": self.grad_enabled,
            "training": self.training,
        }


def make(what: type[_T], /, **fields: Any) -> _T:
    """A :class:`Value` or :class:`Op`; all ``fields`` must be given.

    The constructor of a frozen dataclass sets one field after the other through ``object.__setattr__``: eight times the
    price, some thousand times in the recorded step.
    """
    made = object.__new__(what)
    made.__dict__.update(fields)
    return made


def _plain(value: Any) -> Any:
    """``value`` as JSON knows it."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return str(value)
