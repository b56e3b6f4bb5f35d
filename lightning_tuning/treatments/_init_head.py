"""An output bias that knows the prior of the targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.functional.output_prior import log_odds_prior, log_prior
from lightning_tuning.rules._prior_head import PriorHead
from lightning_tuning.runtime.training_samples import batches_aside
from lightning_tuning.trace import batch_tensors

__all__ = ["Prior", "find_prior"]


class Prior(NamedTuple):
    """Values for a bias, from ``size`` targets."""

    bias: Tensor
    size: int


def find_prior(
    trainer: Trainer, pl_module: LightningModule, batch: Any, head: PriorHead, *, batches: int, seed: int
) -> Prior | str:
    """The bias of the best constant answer, or why there is none; that of rank 0, and every rank must call it.

    Args:
        trainer: of the run.
        pl_module: its module.
        batch: the first batch, which has to do where samples cannot be read beside the run.
        head: what is looked for.
        batches: of samples, drawn evenly from the training data.
        seed: decides which.
    """
    found: Prior | str = ""
    if trainer.is_global_zero:
        found = _tally(head, _aside(trainer, pl_module, head, batches, seed) or [batch])
    decided: Prior | str = trainer.strategy.broadcast(found)
    return decided


def _aside(trainer: Trainer, pl_module: LightningModule, head: PriorHead, batches: int, seed: int) -> list[Any]:
    """The targets alone of some batches; nothing where they cannot be had."""
    reader = batches_aside(trainer, pl_module, batches, seed)
    if reader is None:
        return []
    try:
        return [{head.target: _targets(head, batch)} for batch in reader]
    except Exception:  # noqa: BLE001  # whatever the user's data set raises when it is asked out of turn
        return []
    finally:
        reader.close()


def _targets(head: PriorHead, batch: Any) -> Tensor:
    if isinstance(batch, dict) and isinstance(batch.get(head.target), Tensor):
        known: Tensor = batch[head.target]
        return known
    return next(tensor for path, tensor in batch_tensors(batch) if path == head.target)


def _tally(head: PriorHead, batches: Iterable[Any]) -> Prior | str:
    """Counts or sums over ``batches``, and the bias that they ask for."""
    is_classes = head.kind in ("cross_entropy", "nll")
    total, size = torch.zeros(head.units, dtype=torch.float64), 0
    for batch in batches:
        targets = _targets(head, batch).detach().cpu()
        if is_classes:
            kept = targets[(targets != head.ignore_index) & (targets >= 0) & (targets < head.units)].long()
            total += torch.bincount(kept.flatten(), minlength=head.units)
            size += kept.numel()
            continue
        rows = targets.double().reshape(-1, 1) if head.axis is None else targets.double().movedim(head.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        if rows.shape[1] != head.units:
            return "the targets have another shape than in the first step"
        total += rows.sum(0)
        size += len(rows)
    if not size or not bool(total.isfinite().all()):
        return "the targets are none, or not finite"
    if is_classes:
        return Prior(log_prior(total, label_smoothing=head.label_smoothing), size)
    if head.kind in ("bce", "bce_logits"):
        if bool((total < 0).any() or (total > size).any()):
            return "the targets are no probabilities"
        return Prior(log_odds_prior(total, size), size)
    return Prior(total / size, size)
