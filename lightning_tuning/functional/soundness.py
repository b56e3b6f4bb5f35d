"""Which tensors hold what they should not: one look at each, and one host read per device."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

__all__ = ["Held", "broken", "can_be_asked", "held_state", "local"]


class Held(NamedTuple):
    """A tensor of a run, and what it has to be free of.

    Attributes:
        tensor: itself.
        kind: ``"trained"``: NaN and both infinities. ``"kept"`` (buffers, frozen parameters): NaN and ``inf``; a mask
            of ``-inf`` is well. ``"moment"`` (optimizer state): NaN; a square that overflowed stops its element only.
    """

    tensor: Tensor
    kind: Literal["trained", "kept", "moment"]


def broken(named: Iterable[tuple[str, Held]]) -> tuple[str, ...]:
    """Names of the tensors that hold what they should not: one pass over each, and one host read per device.

    Example:
        >>> mask = torch.tensor([0.0, float("-inf")])
        >>> broken([("weight", Held(mask, "trained")), ("mask", Held(mask, "kept"))])
        ('weight',)
    """
    asked: dict[torch.device, tuple[list[str], list[Tensor]]] = {}
    for name, held in named:
        tensor = local(held.tensor)
        names, answers = asked.setdefault(tensor.device, ([], []))
        names.append(name)
        answers.append(_is_broken(tensor, held.kind))
    return tuple(
        name
        for names, answers in asked.values()
        for name, is_broken in zip(names, torch.stack(answers).tolist(), strict=True)
        if is_broken
    )


def held_state(state: Mapping[str, Any], buffers: Container[str]) -> dict[str, Held]:
    """The floating tensors of a state dict, ready to be asked; those named in ``buffers`` are not trained.

    Of what is not trained, single numbers are left out: a best loss so far, a perplexity, may well be infinite.

    Example:
        >>> state = {"weight": torch.zeros(2), "best": torch.tensor(float("inf")), "count": torch.tensor(3)}
        >>> list(held_state(state, buffers={"best", "count"}))
        ['weight']
    """
    held: dict[str, Held] = {
        name: Held(value, "kept" if name in buffers else "trained")
        for name, value in state.items()
        if isinstance(value, Tensor) and can_be_asked(value)
    }
    return {name: one for name, one in held.items() if one.kind == "trained" or one.tensor.numel() != 1}


def local(tensor: Tensor) -> Tensor:
    """The values on this rank, without their graph; of a sparse tensor those that are there."""
    tensor = getattr(tensor.detach(), "to_local", tensor.detach)()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def can_be_asked(tensor: Tensor) -> bool:
    """It has values, of a kind that torch can ask (which float8 is not)."""
    return (
        not is_lazy(tensor)
        and not tensor.is_meta
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.dtype.itemsize > 1
    )


def _is_broken(tensor: Tensor, kind: str) -> Tensor:
    if kind == "moment":
        return tensor.isnan().any()
    if kind == "trained" or tensor.is_complex():
        return tensor.isfinite().all().logical_not()
    return (tensor.isnan() | tensor.isposinf()).any()
