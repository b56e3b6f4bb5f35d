"""The norms of one optimizer's gradients: reduced over ranks, unscaled, not yet clipped."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.distributed.fsdp import ShardingStrategy
from torch.optim import Optimizer

from lightning_tuning.functional import global_norm, tensor_norms
from lightning_tuning.measure.sharding import sharded_norms

__all__ = ["GradientNorms", "GradientReader", "plain_name"]

_WRAPPERS = re.compile(r"_(fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")


def plain_name(name: str) -> str:
    """A parameter's name without what FSDP, activation checkpointing and ``torch.compile`` put into it.

    Example:
        >>> plain_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return _WRAPPERS.sub("", name)


@dataclasses.dataclass(frozen=True)
class GradientNorms:
    """Norms of one optimizer's gradients: reduced over ranks, unscaled, not yet clipped.

    Attributes:
        names: dotted names of the parameters that have a gradient, in the optimizer's order.
        each: float32 vector on the gradients' device, one L2 norm per name.
        total: the global L2 norm: 0-d on that device, or a float where that is the CPU.
        landed: the numbers of ``each`` where they lie on the host anyway, else ``None``.
    """

    names: tuple[str, ...]
    each: Tensor
    total: Tensor | float
    landed: tuple[float, ...] | None = None


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
        self._known: dict[int, tuple[list[Tensor], tuple[str, ...]]] = {}

    def read(self, optimizer: Optimizer) -> GradientNorms:
        """The norms as they are now. Every rank must call it; nothing waits for the device."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        names = self._names_of(optimizer, parameters)
        gradients = [p.grad for p in parameters]
        if self._copies is not None:  # which piece has no gradient differs between ranks, the vector's length must not
            gradients = [p.new_zeros(0) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        present = [g for g in gradients if g is not None]
        if len(present) != len(gradients):
            names = tuple(name for name, g in zip(names, gradients, strict=True) if g is not None)
        each = sharded_norms(present, flat_copies=self._copies) if self._is_sharded else tensor_norms(present)
        if not present:
            each = each.to(self._trainer.strategy.root_device)
        if (scale := self._scale_left_in(optimizer)) is not None:
            each = each / scale
        if not each.is_cpu:
            return GradientNorms(names, each, global_norm(each))
        landed = tuple(each.tolist())
        return GradientNorms(names, each, math.sqrt(sum(map(operator.mul, landed, landed))), landed)

    def _names_of(self, optimizer: Optimizer, parameters: list[Tensor]) -> tuple[str, ...]:
        """Dotted names, looked up anew whenever a parameter is another one than the last time."""
        known = self._known.get(id(optimizer))
        if known is not None and len(known[0]) == len(parameters) and all(map(operator.is_, known[0], parameters)):
            return known[1]
        name_of = {id(p): plain_name(n) for n, p in self._trainer.lightning_module.named_parameters()}
        names = tuple(name_of.get(id(p), f"<unnamed {i}>") for i, p in enumerate(parameters))
        self._known[id(optimizer)] = parameters, names
        return names

    def _scale_left_in(self, optimizer: Optimizer) -> Tensor | None:
        """Fused optimizers get no ``unscale_``: their gradients still carry the GradScaler's factor here."""
        if self._scaler is None:
            return None
        raw = getattr(optimizer, "optimizer", optimizer)
        if not getattr(raw, "_step_supports_amp_scaling", False):
            return None
        scale: Tensor | None = self._scaler._scale  # `get_scale()` would read it back to the host
        return scale


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
