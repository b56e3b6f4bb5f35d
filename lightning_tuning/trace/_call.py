"""One call of an operator below autograd, and what of a tensor is not finite."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.trace._evidence import Evidence, op_name
from lightning_tuning.trace._ledger import tensors_in

__all__ = ["Call", "bad_rows", "bad_values", "finite_range", "is_finite", "running_function"]

_WRITTEN_ANEW = frozenset(
    {"copy", "fill", "zero", "normal", "uniform", "bernoulli", "random", "exponential", "log_normal", "geometric"}
)
"""In place, without a look at what was there."""

_FUNCTIONAL = torch.nn.functional.__file__
_TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parent)


class Call:
    """One call of an operator, to be made before it runs: the values that it will overwrite are copied.

    Attributes:
        aten: torch's name, ``"aten::log_"``.
        op: the common name, ``"log"``.
        arguments: by the names of the schema.
        inputs: each tensor that is read, with its values before the call.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.aten: str = func._schema.name
        self.op = op_name(self.aten)
        self.arguments: dict[str, Any] = {}
        self.inputs: list[tuple[Tensor, Tensor]] = []
        self._pointwise = torch.Tag.pointwise in func.tags
        self._written: list[Tensor] = []
        for position, argument in enumerate(func._schema.arguments):
            value = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            self.arguments[argument.name] = value
            writes = argument.alias_info is not None and argument.alias_info.is_write
            tensors = [tensor for tensor in tensors_in(value) if _can_be_bad(tensor)]
            if writes:
                self._written += tensors
            if not (writes and (argument.kwarg_only or self.op in _WRITTEN_ANEW)):  # keyword only: `out=`
                self.inputs += [(tensor, tensor.detach().clone() if writes else tensor) for tensor in tensors]

    @property
    def scalars(self) -> list[float]:
        """The numbers among the arguments, in order."""
        return [float(value) for value in _numbers(self.arguments.values())]

    @property
    def infinite_scalar(self) -> float | None:
        """The first number among the arguments that is not finite."""
        return next((value for value in self.scalars if not math.isfinite(value)), None)

    def results(self, result: Any) -> Iterator[Tensor]:
        """What it returned and what it wrote into, each once."""
        seen: set[int] = set()
        for tensor in [*tensors_in(result), *self._written]:
            if id(tensor) not in seen and _can_be_bad(tensor):
                seen.add(id(tensor))
                yield tensor

    def evidence(self, output: Tensor) -> Evidence:
        """What is needed to tell why ``output`` is not finite."""
        values = [before.detach() for _, before in self.inputs]
        return Evidence(
            self.op,
            self.aten,
            values,
            self.scalars,
            output.detach(),
            self._pointwise,
            self.arguments,
            function=running_function(),
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are; integers always are. Waits for the device."""
    return not _can_be_bad(tensor) or bool(torch.isfinite(_values(tensor)).all())


def finite_range(tensors: list[Tensor]) -> tuple[float | None, float | None]:
    """Smallest and largest finite number, if there is one."""
    finite = [values[torch.isfinite(values)] for values in map(_values, tensors) if not values.is_complex()]
    ends = [(float(values.min()), float(values.max())) for values in finite if values.numel()]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (None, None)


def bad_values(tensor: Tensor) -> dict[str, Any]:
    """How many are not finite and what most of them are, as fields of an Origin."""
    values = _values(tensor)
    kinds = {"NaN": int(values.isnan().sum())}
    if values.is_complex():
        kinds["inf"] = int(values.isinf().sum())
    else:
        kinds.update({"inf": int(values.isposinf().sum()), "-inf": int(values.isneginf().sum())})
    most = max(kinds, key=kinds.__getitem__)
    return {"shape": tuple(tensor.shape), "bad": sum(kinds.values()), "total": tensor.numel(), "value": most}


def bad_rows(tensor: Tensor) -> tuple[int, ...]:
    """Indices along the first dimension where something is not finite."""
    if tensor.dim() == 0 or tensor.layout is not torch.strided:
        return ()
    bad = ~torch.isfinite(_values(tensor))
    return tuple(bad.reshape(len(bad), -1).any(dim=1).nonzero().flatten().tolist())


def _can_be_bad(tensor: Tensor) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and not (tensor.is_meta or tensor.is_quantized)


def _values(tensor: Tensor) -> Tensor:
    values = tensor.detach()
    if values.layout is torch.sparse_coo:
        values = values.coalesce().values()
    elif values.layout is not torch.strided:
        values = values.values()
    return values if values.element_size() > 1 else values.float()  # float8 has no isfinite


def _numbers(values: Any) -> Iterator[float]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield value


def running_function() -> str | None:
    """The outermost function of ``torch.nn.functional`` between here and the module or the user who called it."""
    name: str | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_call_impl":
        filename = frame.f_code.co_filename
        if filename == _FUNCTIONAL:
            name = frame.f_code.co_name
        elif not filename.startswith((_TORCH, _OWN)):
            break
        frame = frame.f_back
    return name
