"""Statistics of batch norms estimated by training steps run aside, with dropout off."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_tuning.functional.batch_norm import cumulative_statistics
from lightning_tuning.measure.normalizer import Normalizer
from lightning_tuning.trace import CannotReplay, RngState, replay

__all__ = ["Held", "Statistics", "estimate_statistics", "fresh_batches", "write_statistics"]

Held: TypeAlias = "deque[tuple[Any, int]]"
"""Batches and their indices."""

Statistics: TypeAlias = "dict[str, Tensor]"
"""Values of buffers by dotted name: running means, variances and counters."""

_OF_A_NORM = ("running_mean", "running_var", "num_batches_tracked")


def estimate_statistics(
    trainer: Trainer, pl_module: LightningModule, names: Sequence[str], held: Iterable[tuple[Any, int]]
) -> Statistics:
    """The mean statistics of the batch norms called ``names`` over the batches in ``held``; changes nothing.

    Every call of a batch norm counts alike, as in torch's ``momentum=None``. One that no step called is left out.

    Raises:
        CannotReplay: if a step cannot be run aside, or raises.
    """
    found: Statistics = {}

    def keep(_: list[Tensor]) -> None:
        buffers = dict(pl_module.named_buffers())
        found.update({name: buffers[name].clone() for norm in names for name in _buffers_of(norm)})

    for batch, index in held:
        mode = _estimating(pl_module, names, reset=not found)
        try:
            replay(trainer, pl_module, batch, index, buffers=dict(found), context=mode, inspect=keep)
        except CannotReplay:
            raise
        except Exception as error:
            raise CannotReplay(f"The repeated training_step raised {type(error).__name__}: {error}") from error
    if not found:
        raise CannotReplay("There was no batch.")
    called = [norm for norm in names if int(found[f"{norm}.num_batches_tracked"])]  # read at a pause of training
    return {name: found[name] for norm in called for name in _buffers_of(norm)}


def write_statistics(trainer: Trainer, pl_module: LightningModule, statistics: Statistics) -> None:
    """Put ``statistics`` into the module, the mean over all ranks.

    The counter of a batch norm with a momentum goes on counting the batches of training, which it has no other use for.
    """
    buffers = dict(pl_module.named_buffers())
    with torch.no_grad():
        for name, value in statistics.items():
            norm = pl_module.get_submodule(name.rpartition(".")[0])
            if value.is_floating_point():
                buffers[name].copy_(trainer.strategy.reduce(value, reduce_op="mean"))
            elif isinstance(norm, _BatchNorm) and norm.momentum is None:
                buffers[name].copy_(value)


def fresh_batches(trainer: Trainer, number: int) -> Iterator[tuple[Any, int]]:
    """The first batches of a new pass over the training loader, on the device; random numbers are put back."""
    loader = trainer.fit_loop._combined_loader
    if loader is None:
        return
    rng = RngState.capture()
    try:
        for (batch, index, _), _ in zip(iter(loader), range(number), strict=False):
            batch = trainer.precision_plugin.convert_input(batch)  # noqa: PLW2901  # as Lightning's own loop does
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)  # noqa: PLW2901
            yield trainer.strategy.batch_to_device(batch, dataloader_idx=0), index
    finally:
        rng.restore()


def _buffers_of(norm: str) -> list[str]:
    return [f"{norm}.{name}" for name in _OF_A_NORM]


@contextmanager
def _estimating(pl_module: LightningModule, names: Sequence[str], *, reset: bool) -> Iterator[None]:
    """Modes of an estimate, inside of a replay that puts them back.

    Containers are in training mode, since what their ``forward`` returns may depend on it (detectors return losses);
    layers are in evaluation mode, and functional dropout is switched off.
    """
    for part in pl_module.modules():
        part.training = next(part.children(), None) is not None and not isinstance(part, nn.MultiheadAttention)
    norms = [pl_module.get_submodule(name) for name in names]
    with Normalizer(pl_module, "themselves", drops=False), cumulative_statistics(norms, reset=reset):  # type: ignore[arg-type]
        yield
