"""Any learning rate schedule of torch, for those who like it in the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from lightning_tuning.functional.schedule_lr import schedule_lr_config
from lightning_tuning.runtime.run_length import ticks_of

__all__ = ["ScheduleLRMixin"]


class ScheduleLRMixin(LightningModule):
    """Gives a module :meth:`with_schedule_lr`: a schedule that is as long as the run, with a warm-up.

    The same as the callback :class:`~lightning_tuning.ScheduleLR`, for those who write ``configure_optimizers`` anyway;
    one of the two is enough.

    Example:
        >>> import torch
        >>> class Net(ScheduleLRMixin, LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 2)
        ...
        ...     def configure_optimizers(self):
        ...         optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        ...         return self.with_schedule_lr(optimizer, "MultiStepLR", {"milestones": [30]}, interval="epoch")
        >>> Net().configure_optimizers()["lr_scheduler"]["interval"]
        'epoch'
    """

    def with_schedule_lr(
        self,
        optimizer: Optimizer,
        scheduler: str | Callable[..., Any] | None = None,
        arguments: dict[str, Any] | None = None,
        *,
        interval: Literal["step", "epoch"] = "step",
        frequency: int = 1,
        warmup: float = 0,
        warmup_start: float = 0.01,
        monitor: str | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """``optimizer`` with a schedule, to be returned from ``configure_optimizers``.

        Args:
            optimizer: whose rates are scheduled.
            scheduler: see :class:`~lightning_tuning.ScheduleLR`, and so the others.
            arguments: of the scheduler; its length is filled in from the trainer, where the module has one.
            interval: ``"step"`` (default) or ``"epoch"``.
            frequency: batches, or epochs, per step of the scheduler.
            warmup: steps of the scheduler, or a fraction of the run below 1.
            warmup_start: first rate of the warm-up, as a factor.
            monitor: name of the metric that the scheduler is stepped with, if it wants one.
            name: under which ``LearningRateMonitor`` logs it.

        Raises:
            ValueError: for arguments outside of what is said there.
            MisconfigurationException: with manual optimization, where Lightning steps no scheduler; the callback does.
        """
        if not self.automatic_optimization:
            raise MisconfigurationException(
                "ScheduleLRMixin: with manual optimization Lightning steps no scheduler. "
                f"Use `Trainer(callbacks=[ScheduleLR({scheduler!r})])`."
            )
        ticks = None if self._trainer is None else ticks_of(self._trainer, interval, frequency)
        config = schedule_lr_config(
            optimizer, scheduler, arguments, ticks=ticks, interval=interval, frequency=frequency, warmup=warmup,
            warmup_start=warmup_start, monitor=monitor, name=name,
        )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": config}
