"""Which weights, buffers and optimizer moments are broken: one look at everything that a checkpoint would hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

__all__ = ["Held", "broken", "local", "moments", "weights"]


class Held(NamedTuple):
    """A tensor of a run, and what it has to be free of.

    Attributes:
        tensor: itself.
        kind: ``"trained"``: NaN and both infinities. ``"kept"`` (buffers, frozen parameters): NaN and ``inf``; a mask
            of ``-inf`` is well. ``"moment"`` (optimizer state): NaN; a square that overflowed stops its element only.
    """

    tensor: Tensor
    kind: Literal["trained", "kept", "moment"]


def weights(pl_module: LightningModule) -> dict[str, Held]:
    """Floating parameters and the buffers that go into checkpoints, by name.

    Of what is not trained, single numbers are left out: a best loss so far, a perplexity, may well be infinite.
    """
    held = {name: Held(p, "trained" if p.requires_grad else "kept") for name, p in pl_module.named_parameters()}
    for prefix, module in pl_module.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                held[f"{prefix}.{name}" if prefix else name] = Held(buffer, "kept")
    return {name: one for name, one in held.items() if _can_be_asked(one.tensor) and not _is_number(one)}


def moments(pl_module: LightningModule, optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, Held]]:
    """What the optimizers keep for each parameter in its shape: running means of gradients and of their squares."""
    name_of = {id(p): name for name, p in pl_module.named_parameters()}
    for optimizer in optimizers:
        states: Mapping[Any, Any] = getattr(optimizer, "optimizer", optimizer).state
        for parameter, state in states.items():
            for key, value in state.items() if isinstance(state, Mapping) else ():
                alike = isinstance(value, Tensor) and value.shape == getattr(parameter, "shape", None)
                if alike and value.ndim and _can_be_asked(value):
                    yield f"{name_of.get(id(parameter), 'a parameter')} ({key})", Held(value, "moment")


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


def local(tensor: Tensor) -> Tensor:
    """The values on this rank, without their graph; of a sparse tensor those that are there."""
    tensor = getattr(tensor.detach(), "to_local", tensor.detach)()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _is_broken(tensor: Tensor, kind: str) -> Tensor:
    if kind == "moment":
        return tensor.isnan().any()
    if kind == "trained" or tensor.is_complex():
        return tensor.isfinite().all().logical_not()
    return (tensor.isnan() | tensor.isposinf()).any()


def _can_be_asked(tensor: Tensor) -> bool:
    """It has values, of a kind that torch can ask (which float8 is not)."""
    return (
        not is_lazy(tensor)
        and not tensor.is_meta
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.dtype.itemsize > 1
    )


def _is_number(held: Held) -> bool:
    return held.kind == "kept" and held.tensor.numel() == 1
