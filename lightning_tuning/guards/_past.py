"""What the updates before a bad step tell: how far they moved the weights, what was never set back, what was summed."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_tuning.functional import global_norm, tensor_norms
from lightning_tuning.rules._growth import Pace
from lightning_tuning.rules.sum_reduction import sum_reduction
from lightning_tuning.runtime.zero_grad import has_own_zero_grad
from lightning_tuning.trace import Recorder, replay

__all__ = ["pace_of", "stale_updates", "summed_samples", "weight_norm"]

_CLEARING = (
    *("on_train_epoch_start", "on_train_epoch_end", "on_train_batch_start", "on_train_batch_end"),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
"""Hooks in which gradients may be set back, of modules and callbacks."""

_WINDOW = 16
"""Batches over which a manual loop may be expected to accumulate gradients."""


def weight_norm(pl_module: LightningModule) -> float:
    """Norm of all trainable parameters on this rank; waits for the device."""
    weights = [_local(parameter) for parameter in pl_module.parameters() if _is_trained(parameter)]
    return float(global_norm(tensor_norms(weights))) if weights else 0.0


def pace_of(
    trainer: Trainer, pl_module: LightningModule, norms: Sequence[float], *, before: float, updates: int
) -> Pace | None:
    """How far the last updates moved the weights; ``None`` if there were none.

    With one optimizer of plain SGD its updates are known from ``norms``, cut by the trainer's clipping as they were;
    with Adam the last one from its state. Of others only the growth of the weights is known.

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule, with the weights of before the bad step's update.
        norms: global gradient norms of the last healthy updates.
        before: the norm of the weights when they were last looked at.
        updates: made since.
    """
    rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
    if not rates or updates < 1 or not math.isfinite(before):
        return None
    smallest, known, proportional = None, 0, False
    optimizer: Any = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if type(optimizer) is SGD and norms:
        smallest, known, proportional = min(rates) * min(_clipped(trainer, norm) for norm in norms), len(norms), True
    elif type(optimizer) in (Adam, AdamW):
        length = _adam_length(optimizer)
        smallest, known = (length, 1) if math.isfinite(length) else (None, 0)
    return Pace(max(rates), before, weight_norm(pl_module), updates, smallest, known, proportional)


def stale_updates(trainer: Trainer, pl_module: LightningModule, step: Mapping[str, Any], *, updates: int) -> int:
    """Over how many updates gradients were added up and never set back; 0 if they were, or if nobody can tell.

    That may be in a manual loop, or where an ``optimizer_zero_grad`` of the module's own takes Lightning's place. In
    the latter nobody can tell if there are other hooks of the user's own in which they might be set back.

    A gradient that was written into as often as there were updates was never dropped; whether it is set to zero in
    place instead is seen in repetitions of the step, as this batch and as the next ones, for a loop that accumulates
    does so in some of them only. Nothing has to be watched while the run is healthy.

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule, with the gradients of the bad step.
        step: arguments of :func:`~lightning_tuning.trace.replay`.
        updates: batches of the run with an update.
    """
    if trainer.global_step < 2 or not has_own_zero_grad(trainer, pl_module):
        return 0
    automatic = pl_module.automatic_optimization
    if automatic and _may_set_back_elsewhere(trainer, pl_module):
        return 0
    aged = [p for p in pl_module.parameters() if p.grad is not None and p.grad._version >= updates]
    if not aged:
        return 0
    for later in range(_WINDOW):
        index = step["batch_idx"] + later
        witness = _Witness(aged[0], functools.partial(_zero_grad, trainer, pl_module, index) if automatic else None)
        with contextlib.suppress(Exception):  # a step that cannot be repeated tells nothing
            replay(trainer, pl_module, **{**step, "batch_idx": index}, context=witness)
        if not witness.kept:
            return 0
    return updates


def summed_samples(trainer: Trainer, pl_module: LightningModule, step: Mapping[str, Any]) -> int:
    """Over how many samples the loss is a sum; 0 for a mean, and where the graph of the step does not tell."""
    recorder = Recorder(pl_module, step["batch"])
    with contextlib.suppress(Exception):
        for loss in replay(trainer, pl_module, **step, context=recorder):
            recorder.mark_loss(loss)
        finding = sum_reduction(recorder.graph)
        return 0 if finding is None else int(finding.evidence["samples"])
    return 0


class _Witness(contextlib.AbstractContextManager[None]):
    """Gives a parameter a gradient of ones for the time of a step without a backward pass; is it still there after?

    Args:
        parameter: that gets it.
        then: what the run would do after the step, before the backward pass.
    """

    def __init__(self, parameter: torch.nn.Parameter, then: Callable[[], None] | None = None) -> None:
        self.kept = False
        self._parameter, self._then = parameter, then

    def __enter__(self) -> None:
        self._gradient = self._parameter.grad = torch.ones_like(self._parameter)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._then is not None:
            self._then()
        untouched = self._parameter.grad is self._gradient and bool(self._gradient.any())
        self.kept = kind is None and untouched


def _zero_grad(trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
    pl_module.optimizer_zero_grad(trainer.current_epoch, batch_idx, trainer.optimizers[0])


def _may_set_back_elsewhere(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether there is code of the user's own, besides ``training_step`` and ``zero_grad``, that might clear them."""
    known = ("lightning.", "lightning_tuning.", "torch.optim.")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    own = [getattr(type(pl_module), hook, None) for hook in (*_CLEARING, "optimizer_step", "backward")]
    own += [getattr(type(callback), hook, None) for hook in _CLEARING for callback in callbacks]
    own += [type(optimizer).step for optimizer in trainer.optimizers]
    return any(not str(getattr(method, "__module__", known[0])).startswith(known) for method in own)


def _clipped(trainer: Trainer, norm: float) -> float:
    """What is left of a gradient's norm after the trainer's clipping, at most."""
    bound = trainer.gradient_clip_val
    if not bound or trainer.gradient_clip_algorithm == "value":
        return norm
    return min(norm, float(bound))


def _adam_length(optimizer: Optimizer) -> float:
    """Length of the update that Adam has made last, by its state."""
    squares = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state or group["amsgrad"]:
                continue
            count, (first, second) = float(state["step"]), group["betas"]
            mean = _local(state["exp_avg"]) / (1 - float(first) ** count)
            root = (_local(state["exp_avg_sq"]) / (1 - float(second) ** count)).sqrt() + group["eps"]
            squares.append((float(group["lr"]) * (mean / root).norm()).square().cpu())
    return float(torch.stack(squares).sum().sqrt()) if squares else math.nan


def _local(tensor: Tensor) -> Tensor:
    value: Tensor = getattr(tensor.detach(), "to_local", tensor.detach)()
    return value


def _is_trained(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.is_floating_point() and not torch.nn.parameter.is_lazy(parameter)
