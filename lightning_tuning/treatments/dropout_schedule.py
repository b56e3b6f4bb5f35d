"""A rate of dropout that changes over the run."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning.functional._numbers import is_number
from lightning_tuning.functional.dropout import Shape, check_rate, dropout_rate, dropout_setting
from lightning_tuning.functional.module_globs import parse_globs, select_modules
from lightning_tuning.runtime import Desk, TuningCallback

__all__ = ["DropoutSchedule"]

Interval = Literal["run", "epoch", "step"]


class DropoutSchedule(TuningCallback):
    """Moves the rates of the net's dropouts from ``start`` to ``end``, then holds them.

    Curriculum dropout is ``DropoutSchedule(start=0.0, shape="exponential", over=1.0)``: a net that knows nothing yet
    has nothing to overfit with, and learns better undisturbed. Early dropout, against *under*-fitting, is the other way
    round: ``DropoutSchedule(start=0.1, end=0.0, shape="linear", over=0.2)``, noise only while gradients of single
    batches disagree most.

    Set at the start of every batch, for the module classes ``nn.Dropout*``, and for the ``dropout`` of ``nn.LSTM``,
    ``nn.GRU``, ``nn.RNN`` and ``nn.MultiheadAttention``; functional dropout has no module to set. The rate is a
    function of the Trainer's own counters: a resumed run has the rates of an unbroken one, and all ranks the same.
    After the run, or an error in it, every rate is what it was before. A rate that somebody else changes meanwhile
    (``DropoutBNConflictWarning(on_conflict="disable")``) is left to them. A compiled module is compiled anew for every
    rate: take ``shape="step"`` there.

    Args:
        start: first rate, 0 <= p < 1; ``None`` is each module's own. Default 0.
        end: last rate. Default ``None``: each module's own.
        over: length of the way, in units of ``interval``. Default .5, half of the run.
        interval: ``"run"`` (default): share of the run by ``max_epochs`` or ``max_steps``, 0 < over <= 1; ``"epoch"``;
            ``"step"``: the Trainer's ``global_step``.
        shape: ``"linear"`` (default), ``"cosine"``, ``"exponential"`` or ``"step"``, see
            :func:`lightning_tuning.functional.dropout_rate`.
        include: glob(s) on dotted names in the LightningModule: only these. Default ``None``: all.
        exclude: glob(s): not these. Default: none.

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: at the start of fit, for a glob that means no dropout, and for ``interval="run"``
            where neither epochs nor steps end the run.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DropoutSchedule(start=0.0, over=0.3)], logger=False)

    Source: Morerio et al. 2017, Curriculum Dropout; Liu et al. 2023, Dropout Reduces Underfitting.
    """

    def __init__(
        self,
        start: float | None = 0.0,
        end: float | None = None,
        *,
        over: float = 0.5,
        interval: Interval = "run",
        shape: Shape = "linear",
        include: str | list[str] | None = None,
        exclude: str | list[str] = (),  # type: ignore[assignment]  # an empty default that nobody can append to
    ) -> None:
        super().__init__()
        for argument, rate in (("start", start), ("end", end)):
            if rate is not None:
                check_rate(argument, rate)
        if start is None and end is None:
            raise ValueError("`end` must be a rate where `start` is None, got None: nothing would change.")
        if interval not in get_args(Interval):
            raise ValueError(f"`interval` must be one of {get_args(Interval)}, got {interval!r}.")
        most = 1.0 if interval == "run" else math.inf
        if not is_number(over) or not 0 < over <= most:
            allowed = "more than 0 and at most 1" if interval == "run" else "a finite number above 0"
            raise ValueError(f"`over` must be {allowed} with interval={interval!r}, got {over!r}.")
        if shape not in get_args(Shape):
            raise ValueError(f"`shape` must be one of {get_args(Shape)}, got {shape!r}.")
        parse_globs("include", include)
        parse_globs("exclude", exclude)
        self.start, self.end, self.over, self.interval, self.shape = start, end, over, interval, shape
        self.include, self.exclude = include, exclude
        self._rates: list[Rate] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit has rates of its own."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._restore()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the dropouts: everything is in the module by now."""
        try:
            found = select_modules(
                pl_module,
                lambda part: dropout_setting(part) is not None,
                self.include,
                self.exclude,
                what="dropout",
            )
        except ValueError as error:
            raise MisconfigurationException(f"DropoutSchedule: {error}") from error
        unique = {id(part): (name, part) for name, part in found.items()}
        self._rates = [Rate(name, part) for name, part in unique.values()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether the run has an end, and say what will be done."""
        if self.interval == "run" and (trainer.max_epochs or -1) < 0 and trainer.max_steps < 0:
            raise MisconfigurationException(
                "DropoutSchedule(interval='run'): neither `max_epochs` nor `max_steps` ends this run. Use "
                "interval='epoch' or 'step'."
            )
        count = f"{len(self._rates)} dropout{'' if len(self._rates) == 1 else 's'}"
        first, last = (("their own" if rate is None else f"{rate:g}") for rate in (self.start, self.end))
        Desk.of(trainer).journal.note(f"DropoutSchedule moves the rate of {count} from {first} to {last}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates of this batch."""
        progress = self._position(trainer, batch_idx) / self.over
        for rate in self._rates:
            start = rate.own if self.start is None else self.start
            end = rate.own if self.end is None else self.end
            rate.set(dropout_rate(progress, start, end, self.shape))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put every rate back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._restore()

    def _position(self, trainer: Trainer, batch_idx: int) -> float:
        """Where this batch is, in units of the interval."""
        if self.interval == "step":
            return trainer.global_step
        batches = trainer.num_training_batches
        epochs = trainer.current_epoch + (batch_idx / batches if math.isfinite(batches) and batches else 0.0)
        if self.interval == "epoch":
            return epochs
        by_epochs = epochs / trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0.0
        by_steps = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
        return max(by_epochs, by_steps)

    def _restore(self) -> None:
        for rate in self._rates:
            rate.restore()
        self._rates = []


class Rate:
    """The rate of one module, as long as nobody else sets it."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self._module = name, module
        self._setting = dropout_setting(module) or "p"
        self.own: float = getattr(module, self._setting)
        self._last = self.own

    def set(self, rate: float) -> None:
        """Set it."""
        if getattr(self._module, self._setting) == self._last:
            setattr(self._module, self._setting, rate)
            self._last = rate

    def restore(self) -> None:
        """Put it back."""
        self.set(self.own)
