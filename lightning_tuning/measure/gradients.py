"""The norms of one optimizer's gradients: reduced over ranks, unscaled, not yet clipped."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.distributed.fsdp import ShardingStrategy
from torch.optim import Optimizer

from lightning_tuning.functional import global_norm, join_norms, separate_norms
from lightning_tuning.measure.sharding import sharded_norms

__all__ = ["GradientNorms", "GradientReader", "plain_name", "scale_left_in"]

_WRAPPERS = re.compile(r"_(fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")


def plain_name(name: str) -> str:
    """A parameter's name without what FSDP, activation checkpointing and ``torch.compile`` put into it.

    Example:
        >>> plain_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return _WRAPPERS.sub("", name)


def scale_left_in(scaler: Any, optimizer: Optimizer) -> Tensor | None:
    """The factor that gradients still carry in ``on_before_optimizer_step``; ``None`` where they carry none.

    Fused optimizers get no ``unscale_``: they divide by the GradScaler's scale themselves, in their step.

    Args:
        scaler: ``trainer.precision_plugin.scaler``, or ``None``.
        optimizer: as the hook got it.

    Returns:
        0-d tensor on the device, not read.
    """
    raw = getattr(optimizer, "optimizer", optimizer)
    if scaler is None or not getattr(raw, "_step_supports_amp_scaling", False):
        return None
    scale: Tensor | None = scaler._scale  # `get_scale()` would read it back to the host
    return scale


@dataclasses.dataclass(eq=False, slots=True)
class GradientNorms:
    """Norms of one optimizer's gradients: reduced over ranks, unscaled, not yet clipped.

    Attributes:
        names: dotted names of the parameters that have a gradient, in the optimizer's order.
        vector: one L2 norm per name: a float32 vector on the gradients' device, or ``None`` where that is the CPU.
        total: the global L2 norm: 0-d on that device, or a float where that is the CPU.
        landed: the norms as numbers where they lie on the host anyway, else ``None``.
    """

    names: tuple[str, ...]
    vector: Tensor | None
    total: Tensor | float
    landed: tuple[float, ...] | None = None

    @property
    def each(self) -> Tensor:
        """One L2 norm per name, as a float32 vector on the gradients' device."""
        return torch.tensor(self.landed or (), dtype=torch.float32) if self.vector is None else self.vector


class GradientReader:
    """Measures the gradients of one fit.

    What the whole fit has in common is looked up once: on a CPU these look-ups cost as much as the norms of a small
    net.

    Args:
        trainer: of the fit, set up; only weakly held where it is a proxy.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._copies = _flat_copies(trainer)
        self._scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
        self._is_sharded = self._copies is not None or (dist.is_available() and dist.is_initialized())
        self._known: dict[int, tuple[list[Tensor], tuple[str, ...], bool]] = {}

    def read(self, optimizer: Optimizer) -> GradientNorms:
        """The norms as they are now. Every rank must call it; nothing waits for the device."""
        # Dotted names are looked up anew whenever a parameter is another one than the last time.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        known = self._known.get(id(optimizer))
        if known is None or len(known[0]) != len(parameters) or not all(map(operator.is_, known[0], parameters)):
            is_near = self._scaler is None and not self._is_sharded and all(p.is_cpu for p in parameters)
            known = self._known[id(optimizer)] = parameters, self._names_of(parameters), is_near
        names, gradients = known[1], [p.grad for p in parameters]
        if known[2] and (landed := _at_once(gradients)) is not None:
            return _on_host(names, landed)
        if self._copies is not None:  # which piece has no gradient differs between ranks, the vector's length must not
            gradients = [p.new_zeros(0) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        present = [g for g in gradients if g is not None]
        if len(present) != len(gradients):
            names = tuple(name for name, g in zip(names, gradients, strict=True) if g is not None)
        scale = None if self._scaler is None else scale_left_in(self._scaler, optimizer)
        if self._is_sharded:
            each = sharded_norms(present, flat_copies=self._copies)
        else:
            norms = separate_norms(present)
            if norms and scale is None and all([n.is_cpu for n in norms]):  # noqa: C419 (a generator costs twice that)
                return _on_host(names, tuple([n.item() for n in norms]))
            each = join_norms(norms)
        if not present:
            each = each.to(self._trainer.strategy.root_device)
        if scale is not None:
            each = each / scale
        return _on_host(names, tuple(each.tolist())) if each.is_cpu else GradientNorms(names, each, global_norm(each))

    def _names_of(self, parameters: list[Tensor]) -> tuple[str, ...]:
        name_of = {id(p): plain_name(n) for n, p in self._trainer.lightning_module.named_parameters()}
        return tuple(name_of.get(id(p), f"<unnamed {i}>") for i, p in enumerate(parameters))


def _at_once(gradients: list[Tensor | None]) -> tuple[float, ...] | None:
    """The norms as numbers, of gradients on the CPU; ``None`` where one is missing, sparse or in float64.

    Nearly always there is none of these, and it takes as long to look for them as the norms of a small net.
    """
    try:
        norms = torch._foreach_norm(gradients, 2, torch.float32)  # type: ignore[arg-type]  # a None is refused
    except (TypeError, RuntimeError):
        return None
    return tuple([n.item() for n in norms])


def _on_host(names: tuple[str, ...], norms: tuple[float, ...]) -> GradientNorms:
    return GradientNorms(names, None, math.sqrt(sum(map(operator.mul, norms, norms))), norms)


def _flat_copies(trainer: Trainer) -> int | None:
    """How many ranks hold the same piece of a flat parameter of FSDP1; ``None`` where there are no such pieces."""
    if not isinstance(trainer.strategy, FSDPStrategy):
        return None
    sharding = trainer.strategy.sharding_strategy
    if sharding is ShardingStrategy.NO_SHARD:
        return trainer.world_size
    if sharding not in (ShardingStrategy.HYBRID_SHARD, ShardingStrategy._HYBRID_SHARD_ZERO2):
        return 1
    mesh = trainer.strategy.kwargs.get("device_mesh")  # (replicas, shards); without one, a machine is a set of shards
    return trainer.num_nodes if mesh is None else mesh.size(0)
