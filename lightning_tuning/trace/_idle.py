"""What a training step run aside is given in place of the trainer's own parts: it may use them, nothing comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_tuning.trace._restore import Restorer

__all__ = ["idle_trainer_parts", "ignore"]


def ignore(*_: Any, **__: Any) -> None:
    """Take anything, do nothing."""


class IdleOptimizer(LightningOptimizer):
    """The real optimizer to look at, with an update that only runs the closure."""

    def step(self, closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        """Run the closure, which may hold the forward and backward pass, and leave the parameters as they are."""
        return None if closure is None else closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients made so far in this step; the real ones are put aside."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class IdleScheduler:
    """The real learning-rate scheduler to look at, with a step that does nothing."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def step(self, *_: Any, **__: Any) -> None:
        """Leave the learning rate as it is."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


def idle_trainer_parts(trainer: Trainer, pl_module: LightningModule, restorer: Restorer) -> None:
    """Give ``pl_module`` optimizers, schedulers and loggers that do nothing; ``restorer`` puts the real ones back."""
    loggers, should_stop = trainer.loggers, trainer.should_stop
    trainer.loggers = [DummyLogger() for _ in loggers]

    def undo() -> None:
        trainer.loggers, trainer.should_stop = loggers, should_stop

    restorer.on_restore(undo)
    for optimizer in trainer.optimizers:
        restorer.value(optimizer.param_groups)  # a step may set a learning rate; and the parameters in them
        _silence(optimizer.__dict__, restorer)
    optimizers = [IdleOptimizer._to_lightning_optimizer(raw, trainer.strategy) for raw in trainer.optimizers]
    schedulers = [IdleScheduler(config.scheduler) for config in trainer.lr_scheduler_configs] or None
    pl_module.__dict__["optimizers"] = lambda *_, **__: _alone_or_all(optimizers)
    pl_module.__dict__["lr_schedulers"] = lambda: _alone_or_all(schedulers)


def _silence(attributes: dict[str, Any], restorer: Restorer) -> None:
    """Make ``step`` of the raw optimizer idle too, for those who take it from the trainer."""
    before = {name: attributes[name] for name in ("step",) if name in attributes}  # a scheduler has put its own there

    def undo() -> None:
        attributes.pop("step", None)
        attributes.update(before)

    restorer.on_restore(undo)
    attributes["step"] = ignore


def _alone_or_all(parts: list[Any] | None) -> Any:
    """What ``optimizers()`` and ``lr_schedulers()`` return: the only one, or all of them."""
    return parts[0] if parts is not None and len(parts) == 1 else parts
