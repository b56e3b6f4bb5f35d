"""Any learning rate schedule of torch, for any run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.functional.schedule_lr import check_schedule_arguments, schedule_lr_config
from lightning_tuning.runtime import TuningCallback
from lightning_tuning.runtime.run_length import ticks_of
from lightning_tuning.treatments._configure import (
    extend_configure_optimizers,
    optimizer_indices,
    optimizers_and_schedulers,
    pick,
    restore_configure_optimizers,
    schedule_of,
)

__all__ = ["ScheduleLR"]


class ScheduleLR(TuningCallback):
    """Puts any scheduler of ``torch.optim.lr_scheduler`` into a run, without a change in the module.

    The scheduler goes through ``configure_optimizers``, so it is validated, stepped, logged (``LearningRateMonitor``),
    checkpointed and resumed by Lightning itself, as if the module had returned it. How long it has to be is filled in
    from the Trainer (``T_max`` of CosineAnnealingLR, ``total_steps`` of OneCycleLR, ``total_iters`` of PolynomialLR and
    LinearLR), so that a schedule ends when the run does. For a rate that follows a metric there is
    :class:`~lightning_tuning.PlateauLR`, its sibling. In the module: :class:`~lightning_tuning.ScheduleLRMixin`.

    With manual optimization Lightning steps no scheduler; the callback does, once for each batch in which the optimizer
    made a step, or at the end of each epoch. A loop that accumulates gradients itself makes fewer steps than the
    Trainer knows of: say the length in ``arguments`` then.

    Args:
        scheduler: name of a class of ``torch.optim.lr_scheduler``, the class itself, the dotted path of another, or a
            function that makes a scheduler of an optimizer. ``None`` (default): the rates stay as they are, after the
            warm-up.
        arguments: of the scheduler besides the optimizer, ``{"step_size": 10}``. LambdaLR takes a function, or a list
            with one for each parameter group.
        interval: ``"step"`` (default, where Lightning has ``"epoch"``: a warm-up and a cosine are meant per update, and
            LT501 is what comes of forgetting it), or ``"epoch"``. ``step_size`` and ``milestones`` count in it.
        frequency: batches, or epochs, per step of the scheduler. Default 1.
        warmup: over how many steps of the scheduler the rate rises linearly to its own; below 1 a fraction of the run
            (.05 is usual, above .1 is LT512). Default 0.
        warmup_start: first rate of the warm-up, as a factor. Default .01.
        monitor: name of the metric that the scheduler is stepped with, for those that want one.
        optimizer: index of the optimizer to schedule, or several. Default ``None``: all of them.
        when_scheduled: if the module has a scheduler for that optimizer: ``"refuse"`` (default: two would overwrite
            each other's rates), or ``"chain"``: the warm-up alone goes before it, joined by ``SequentialLR``.
        name: under which ``LearningRateMonitor`` logs it. Default: Lightning's own.

    Raises:
        ValueError: for arguments outside of what is said above.
        MisconfigurationException: at the start of fit, if the module has a scheduler already (see ``when_scheduled``),
            if there is no optimizer of that index, if a length is to be filled in and the run has none, and for a
            ``monitor`` under manual optimization.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> cosine = ScheduleLR("CosineAnnealingLR", warmup=0.05)
        >>> stairs = ScheduleLR("MultiStepLR", {"milestones": [30, 60], "gamma": 0.2}, interval="epoch")
        >>> warm = ScheduleLR(warmup=500, when_scheduled="chain")  # before the module's own
        >>> trainer = Trainer(callbacks=[cosine], logger=False, enable_checkpointing=False)

    Source: see :func:`lightning_tuning.functional.schedule_lr_config`.
    """

    def __init__(
        self,
        scheduler: str | Callable[..., Any] | None = None,
        arguments: dict[str, Any] | None = None,
        *,
        interval: Literal["step", "epoch"] = "step",
        frequency: int = 1,
        warmup: float = 0,
        warmup_start: float = 0.01,
        monitor: str | None = None,
        optimizer: int | Sequence[int] | None = None,
        when_scheduled: Literal["refuse", "chain"] = "refuse",
        name: str | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "interval": interval,
            "frequency": frequency,
            "warmup": warmup,
            "warmup_start": warmup_start,
            "monitor": monitor,
            "name": name,
        }
        self.scheduler = scheduler
        self.arguments = {} if arguments is None else arguments
        check_schedule_arguments(scheduler, self.arguments, **self.settings)
        if when_scheduled not in ("refuse", "chain"):
            raise ValueError(f"`when_scheduled` must be 'refuse' or 'chain', got {when_scheduled!r}.")
        if when_scheduled == "chain" and (scheduler is not None or not warmup):
            raise ValueError(
                "`when_scheduled` must be 'refuse' unless there is a `warmup` and no `scheduler`: 'chain' puts a "
                "warm-up before the module's own scheduler."
            )
        self.when_scheduled = when_scheduled
        self.optimizers = optimizer_indices(optimizer)
        self._own: list[Any] = []
        self._stepped: set[int] = set()
        self._handles: list[Any] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Extend ``configure_optimizers`` for this fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._let_go(pl_module)
            extend_configure_optimizers(pl_module, lambda configured: self._extend(trainer, pl_module, configured))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers are configured; the module gets its own method back."""
        restore_configure_optimizers(pl_module)
        if not pl_module.automatic_optimization:
            for place, scheduler in enumerate(self._own):
                hook = _Stepped(self._stepped, place)
                self._handles.append(scheduler.optimizer.register_step_post_hook(hook))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Under manual optimization: step the schedulers whose optimizer made a step."""
        if self.settings["interval"] == "step" and self._stepped:
            if (batch_idx + 1) % self.settings["frequency"] == 0:
                for place in sorted(self._stepped):
                    self._own[place].step()
            self._stepped.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under manual optimization: step those that count epochs, before the checkpoints of the epoch are written."""
        if not self._handles or self.settings["interval"] != "epoch":
            return
        self._stepped.clear()
        if (trainer.current_epoch + 1) % self.settings["frequency"] == 0:
            for scheduler in self._own:
                scheduler.step()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind on the module and its optimizers."""
        self._let_go(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Likewise."""
        self._let_go(pl_module)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": [], "_handles": [], "_stepped": set()}  # those are of this process

    def _let_go(self, pl_module: LightningModule) -> None:
        restore_configure_optimizers(pl_module)
        for handle in self._handles:
            handle.remove()
        self._own, self._handles, self._stepped = [], [], set()

    def _extend(self, trainer: Trainer, pl_module: LightningModule, configured: Any) -> Any:
        optimizers, schedulers = optimizers_and_schedulers(configured)
        if not pl_module.automatic_optimization and self.settings["monitor"] is not None:
            raise MisconfigurationException(
                "ScheduleLR: with manual optimization no metric reaches a scheduler. Use `PlateauLR(monitor=...)`."
            )
        self._own = []
        for optimizer in pick("ScheduleLR", self.optimizers, optimizers):
            entry = schedule_of(optimizer, schedulers)
            if entry is None:
                schedulers = [*schedulers, self._config(trainer, optimizer)]
                self._own.append(schedulers[-1]["scheduler"])
            else:
                chained = self._chained(trainer, optimizer, entry)
                schedulers = [chained if known is entry else known for known in schedulers]
                self._own.append(chained["scheduler"])
        return optimizers, schedulers

    def _chained(self, trainer: Trainer, optimizer: Optimizer, entry: Any) -> dict[str, Any]:
        """The module's own entry with a warm-up before its scheduler."""
        own = entry if isinstance(entry, dict) else {"scheduler": entry}
        called = type(own["scheduler"]).__name__
        if self.when_scheduled == "refuse":
            raise MisconfigurationException(
                f"ScheduleLR: `configure_optimizers` already has {called}, and two schedulers would overwrite each "
                "other's rates. Return the optimizer alone, or drop ScheduleLR; "
                "`ScheduleLR(warmup=..., when_scheduled='chain')` puts a warm-up before it."
            )
        if isinstance(own["scheduler"], ReduceLROnPlateau):
            raise MisconfigurationException(f"ScheduleLR: {called} takes no warm-up: SequentialLR hands no metric on.")
        interval, frequency = own.get("interval", "epoch"), own.get("frequency", 1)
        if (interval, frequency) != (self.settings["interval"], self.settings["frequency"]):
            raise MisconfigurationException(
                f"ScheduleLR(interval={self.settings['interval']!r}, frequency={self.settings['frequency']}): the "
                f"module's {called} is stepped by interval={interval!r}, frequency={frequency}, and a warm-up before "
                "it has to count alike."
            )
        return {**own, "scheduler": self._config(trainer, optimizer, behind=own["scheduler"])["scheduler"]}

    def _config(self, trainer: Trainer, optimizer: Optimizer, behind: Any = None) -> dict[str, Any]:
        ticks = ticks_of(trainer, self.settings["interval"], self.settings["frequency"])
        try:
            return schedule_lr_config(
                optimizer, self.scheduler, self.arguments, ticks=ticks, behind=behind, **self.settings
            )
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(f"ScheduleLR({self.scheduler!r}): {error}") from error


class _Stepped:
    """Notes that an optimizer made a step."""

    def __init__(self, stepped: set[int], place: int) -> None:
        self.stepped, self.place = stepped, place

    def __call__(self, *_: Any) -> None:
        self.stepped.add(self.place)
