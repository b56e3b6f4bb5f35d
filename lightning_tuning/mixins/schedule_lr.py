"""Any learning rate schedule for those who like theirs in the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from lightning_tuning.functional.schedule_lr import check_schedule_arguments, length_argument, schedule_lr_config
from lightning_tuning.runtime.scheduler_ticks import scheduler_ticks

__all__ = ["ScheduleLRMixin"]


class ScheduleLRMixin(LightningModule):
    """Gives a module :meth:`with_schedule_lr`.

    The same as the callback :class:`~lightning_tuning.ScheduleLR`, for those who write ``configure_optimizers`` anyway;
    one of the two is enough.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule
        >>> class Net(ScheduleLRMixin, LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 2)
        ...
        ...     def configure_optimizers(self):
        ...         optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        ...         return self.with_schedule_lr(optimizer, "StepLR", {"step_size": 100}, warmup=9)
        >>> configured = Net().configure_optimizers()
        >>> round(configured["optimizer"].param_groups[0]["lr"], 4), configured["lr_scheduler"]["interval"]
        (0.01, 'step')
    """

    def with_schedule_lr(
        self,
        optimizer: Optimizer,
        scheduler: str | Callable[..., Any] | None,
        arguments: Mapping[str, Any] | None = None,
        *,
        warmup: float = 0,
        warmup_start: float | None = None,
        interval: str = "step",
        frequency: int = 1,
        name: str | None = None,
    ) -> dict[str, Any]:
        """``optimizer`` with a schedule, to be returned from ``configure_optimizers``.

        Args:
            optimizer: whose rates are scheduled.
            scheduler: class, name, dotted path or function; ``None``: a warm-up alone. This and the others as in
                :func:`~lightning_tuning.functional.schedule_lr.schedule_lr_config`. The length of the run is the
                Trainer's.
            arguments: of the scheduler, without the optimizer.
            warmup: ticks of a linear warm-up, or a fraction of the run.
            warmup_start: factor of the rate at the first tick.
            interval: ``"step"`` or ``"epoch"``.
            frequency: intervals per tick.
            name: for ``LearningRateMonitor``.

        Raises:
            ValueError: for arguments outside of what is said there; if a length is to be filled in and the run has
                none, or there is no Trainer yet.
            MisconfigurationException: with manual optimization, where Lightning steps no scheduler; the callback does.
        """
        if not self.automatic_optimization:
            raise MisconfigurationException(
                "ScheduleLRMixin: with manual optimization Lightning steps no scheduler. "
                f"Use `Trainer(callbacks=[ScheduleLR({scheduler!r}, ...)])`."
            )
        timing: dict[str, Any] = {
            "warmup": warmup,
            "warmup_start": warmup_start,
            "interval": interval,
            "frequency": frequency,
        }
        given = check_schedule_arguments(scheduler, arguments, **timing)
        needs_length = length_argument(scheduler, given) is not None or isinstance(warmup, float)
        ticks = None
        if needs_length and self._trainer is not None:
            ticks = scheduler_ticks(self._trainer, interval, frequency)
        config = schedule_lr_config(optimizer, scheduler, given, ticks=ticks, name=name, **timing)
        return {"optimizer": optimizer, "lr_scheduler": config}
