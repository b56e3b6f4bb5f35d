"""What a guard does to a step or a run: drop the gradients, end the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import LBFGS, Optimizer

__all__ = [
    "drop_gradients",
    "local_gradients",
    "loss_without_backward",
    "mute_clipping",
    "refuse_discord",
    "refuse_undroppable",
    "restore_minimums",
    "scaler_of",
    "stop_run",
    "why_it_raises",
]


def refuse_undroppable(trainer: Trainer, argument: str) -> None:
    """See that updates of this run can be dropped.

    Raises:
        MisconfigurationException: if not, naming ``argument``.
    """
    reason = ""
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        reason = "under DeepSpeedStrategy, which keeps the gradients to itself"
    elif any(isinstance(getattr(optimizer, "optimizer", optimizer), LBFGS) for optimizer in trainer.optimizers):
        reason = "of LBFGS, which has moved the weights before its last evaluation"
    if reason:
        raise MisconfigurationException(f"{argument} cannot drop an update {reason}; allowed is 'raise'.")


def refuse_discord(trainer: Trainer, guard: Any) -> None:
    """See that all guards of one kind do the same; which one came first would decide otherwise.

    Raises:
        MisconfigurationException: if not.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    for other in callbacks:
        if type(other) is type(guard) and other.action != guard.action:
            raise MisconfigurationException(
                f"`action` must be one for all {type(guard).__name__}s of a Trainer, got {guard.action!r} and "
                f"{other.action!r}. Keep one of them."
            )


def scaler_of(trainer: Trainer) -> GradScaler | None:
    """The GradScaler of the run, if it has one that is in use."""
    scaler: GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def why_it_raises(action: str, *, mendable: bool, in_a_row: int) -> str:
    """What is said of a guard that raises; empty if it drops the batch instead.

    Args:
        action: of the guard.
        mendable: dropping the batch helps, for the weights are sound.
        in_a_row: batches dropped one after the other, if they are too many; else 0.
    """
    if action == "raise":
        return "raised before the update: weights are as before the batch" if mendable else "the run ends here"
    if action == "skip" and not mendable:
        return "skipping batches cannot mend weights"
    if action == "skip" and in_a_row:
        return f"given up after {in_a_row} skipped in a row (`max_skips`)"
    return ""


def local_gradients(optimizers: list[Optimizer]) -> list[Tensor]:
    """Every gradient that ``optimizers`` would use; of a sharded one the piece on this rank."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    return [getattr(g, "to_local", lambda g=g: g)() for g in gradients]  # a DTensor, where torch has them


def loss_without_backward(outputs: Any) -> list[Tensor]:
    """The loss that a step returned and nobody took the gradient of: SWA's last epoch renews batch norm so."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return [loss.detach().sum()] if isinstance(loss, Tensor) else []


def drop_gradients(trainer: Trainer, optimizer: Optimizer, *, stepping: bool) -> None:
    """Make the coming update of ``optimizer`` change nothing, neither parameters nor its own state.

    Without gradients every optimizer of torch but LBFGS passes a parameter over: no decay, no momentum, no step count.
    A fused optimizer under a GradScaler asserts that there are some; it passes the update over where one is infinite.

    Args:
        trainer: the trainer of the run.
        optimizer: as ``on_before_optimizer_step`` got it.
        stepping: the update follows at once; else more gradients are added first.
    """
    raw: Any = getattr(optimizer, "optimizer", optimizer)
    if stepping and scaler_of(trainer) is not None and getattr(raw, "_step_supports_amp_scaling", False):
        some = next((g for g in local_gradients([raw]) if g.numel()), None)
        if some is not None:
            with torch.no_grad():
                some[(0,) * some.ndim] = float("inf")
        return
    for group in raw.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def mute_clipping(pl_module: LightningModule) -> Callable[[], None]:
    """Let the module clip nothing: without gradients ``clip_grad_value_`` fails, and so may a user's own.

    Returns:
        Undoes it.
    """
    name = "configure_gradient_clipping"
    before = {name: pl_module.__dict__[name]} if name in pl_module.__dict__ else {}
    pl_module.__dict__[name] = _nothing

    def undo() -> None:
        pl_module.__dict__.pop(name, None)
        pl_module.__dict__.update(before)

    return undo


def stop_run(trainer: Trainer) -> tuple[int | None, int | None]:
    """End the run in good order after this batch, whatever minimum it was given.

    Returns:
        The minimums of epochs and steps, for :func:`restore_minimums`.
    """
    loop = trainer.fit_loop
    minimums = loop.min_epochs, loop.epoch_loop.min_steps
    loop.min_epochs = loop.epoch_loop.min_steps = None  # `should_stop` waits for them
    trainer.should_stop = True
    return minimums


def restore_minimums(trainer: Trainer, minimums: tuple[int | None, int | None]) -> None:
    """Give the trainer's next fit its minimums back."""
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = minimums


def _nothing(*_: Any, **__: Any) -> None:
    """Clip nothing."""
