"""Whether the replicas of a model are still the same, bit for bit, on all ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.findings import Finding
from lightning_tuning.functional import fingerprint, tensor_norms
from lightning_tuning.guards._ranks import exchange, several_ranks
from lightning_tuning.rules.replica_drift import replica_drift

__all__ = ["are_replicas", "differ_anywhere", "find_drift", "locate_drift"]

_BUNCH = 1 << 21
"""Elements of small parameters that are put together to be hashed at once: 8 MiB in float32."""


def are_replicas(trainer: Trainer) -> bool:
    """Whether ranks train along, all with the same weights: DDP, unless it averages models now and then instead."""
    strategy = trainer.strategy
    return (
        several_ranks()
        and isinstance(strategy, DDPStrategy)
        and not isinstance(strategy, DeepSpeedStrategy | XLAStrategy)
        and strategy._model_averager is None
    )


def find_drift(trainer: Trainer, pl_module: LightningModule, when: str) -> Finding | None:
    """LT905, the same on every rank, if their parameters differ now. Waits for the device; every rank must call it.

    Price: one pass over the parameters and an all-gather of one number; more only if they differ.
    """
    if not are_replicas(trainer) or not bool(differ_anywhere(trainer, pl_module)):
        return None
    return locate_drift(pl_module, when)


def differ_anywhere(trainer: Trainer, pl_module: LightningModule) -> Tensor:
    """1.0 if some rank has other parameters than rank 0, else 0.0; on the device, without a host read.

    Every rank must call it (an all-gather of one int64).
    """
    home = trainer.strategy.root_device
    prints = [fingerprint(bunch).to(home) for bunch in _bunches(pl_module)]
    own = fingerprint(torch.stack(prints)) if prints else torch.zeros((), dtype=torch.int64, device=home)
    everybody = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everybody, own)
    return (torch.stack(everybody) != everybody[0]).any().float()


def locate_drift(pl_module: LightningModule, when: str) -> Finding | None:
    """LT905 with the parameters and ranks that differ; every rank must call it, and all get the same."""
    named = dict(_replicated(pl_module))
    prints = torch.stack([fingerprint(p) for p in named.values()]).tolist() if named else []
    norms = tensor_norms([p.detach() for p in named.values()]).tolist()
    ranks = exchange({name: both for name, *both in zip(named, prints, norms, strict=True)})
    common = [name for name in named if all(name in own for own in ranks)]
    return replica_drift(
        common,
        [[own[name][0] for name in common] for own in ranks],
        norms=[[own[name][1] for name in common] for own in ranks],
        when=when,
    )


def _replicated(pl_module: LightningModule) -> Iterator[tuple[str, Tensor]]:
    """What DDP keeps equal by equal updates: trainable, whole, and not left to somebody else.

    No buffers: the statistics of batch norm are each rank's own until the next forward pass.
    """
    ignored: set[str] = set(getattr(pl_module, "_ddp_params_and_buffers_to_ignore", ()))
    for name, parameter in pl_module.named_parameters():
        if not parameter.requires_grad or name in ignored or is_lazy(parameter):
            continue
        values = parameter.detach()
        if type(values) is Tensor and values.layout is torch.strided:  # a subclass may be a piece of one (DTensor)
            yield name, values


def _bunches(pl_module: LightningModule) -> Iterator[Tensor]:
    """The parameters in their order, small ones of one device and dtype put together."""
    kind: tuple[torch.device, torch.dtype] | None = None
    bunch: list[Tensor] = []
    size = 0
    for _, parameter in _replicated(pl_module):
        if bunch and (kind != (parameter.device, parameter.dtype) or size + parameter.numel() > _BUNCH):
            yield torch.cat(bunch) if len(bunch) > 1 else bunch[0]
            bunch, size = [], 0
        kind = parameter.device, parameter.dtype
        bunch.append(parameter.reshape(-1))
        size += parameter.numel()
    if bunch:
        yield torch.cat(bunch) if len(bunch) > 1 else bunch[0]
