"""Find a learning rate before the run, by a sweep that leaves no trace."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.functional.lr_range import LRSuggestion, has_diverged, suggest_lr, sweep_rates
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.resting import rest, wake
from lightning_tuning.trace import CannotReplay
from lightning_tuning.treatments._lr_plot import check_can_plot, plot_range_test
from lightning_tuning.treatments._lr_rates import base_rate, scale_rates
from lightning_tuning.treatments._lr_result import LRRangeResult, LRTrial
from lightning_tuning.treatments._lr_sweep import train_aside

__all__ = ["LRRangeTest"]

_TRIES = 4  # the suggested rate, and three thirds of it: down to a 27th


class LRRangeTest(TuningCallback):
    """Sweeps the learning rate before the first step, and sets the one at which the loss falls.

    The rate rises exponentially, an update at each, until the loss runs away. The suggestion is read off the losses on
    the *log* axis (:func:`~lightning_tuning.functional.suggest_lr`). Lightning's ``LearningRateFinder`` differentiates
    along the linear one and so, on noisy losses, ends up at the left end of its sweep. A short run at the suggested
    rate then has to lower the loss on its batches; otherwise a third of the rate is tried, three times.

    Everything is done aside, at the start of the first batch, and undone: weights, buffers, optimizer state,
    schedulers, random numbers, loop counters, metrics and what is logged are those of a run without it, and the batches
    are drawn from iterators of its own. No hook of another callback runs meanwhile. Under DDP losses and gradients are
    averaged, so that every rank suggests the same. Not seen by it, and not put back: objects of classes of your own
    that a module or a data set holds and writes to. Treatments that act in hooks of the step (mixup in
    ``on_train_batch_start``, ``on_before_zero_grad``) do not act in the sweep.

    ``update=True`` multiplies the rates of all groups, so that the largest is the suggested one and the others keep
    their ratio to it, and what schedulers start from; a warm-up warms up to it, a cycle has it for its top. Attributes
    such as ``self.lr`` stay.
    A run that is resumed keeps the rates of its checkpoint: there is no sweep then, nor under ``fast_dev_run``.

    The callback moves itself behind all others but checkpoints, so that ``WeightInitCallback`` has done its part.

    Args:
        min_lr: where the sweep begins. Default 1e-7, where nothing moves yet: the level that the loss falls from.
        max_lr: where it ends, unless the loss has run away. Default 10, beyond what SGD bears.
        steps: of the sweep. Default 100, twelve to a decade; each is a training step, with its accumulation.
        update: set the rate. Default true; false only says it, in the summary and in ``result_``.
        verify: steps of the short run; 0 for none. Default 50, after which a rate that is no good shows. They cost as
            many forward passes more, for the loss of the same batches without training.
        plot: file to draw the sweep into (by matplotlib), rank 0 alone. Default ``None``: nothing is drawn.
        stop_factor: the sweep ends when the loss is this many times the lowest. Default 4, as in Lightning.

    Attributes:
        result_: the losses, the suggestion and the short runs as an ``LRRangeResult``; ``None`` before and if left out.

    Raises:
        ValueError: for an argument outside of what is said above.
        ModuleNotFoundError: for ``plot`` without matplotlib.
        MisconfigurationException: under manual optimization, with sharded parameters or lazy modules, and for loaders
            that can be read once only.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LRRangeTest(steps=60)], logger=False)
        >>> LRRangeTest(min_lr=1.0, max_lr=0.1)
        Traceback (most recent call last):
        ...
        ValueError: `max_lr` must be finite and above `min_lr` (1), got 0.1.

    Source:
        Smith 2017, Cyclical Learning Rates for Training Neural Networks, section 3.3.
    """

    def __init__(
        self,
        *,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        steps: int = 100,
        update: bool = True,
        verify: int = 50,
        plot: str | None = None,
        stop_factor: float = 4.0,
    ) -> None:
        super().__init__()
        self.rates = sweep_rates(min_lr, max_lr, steps)
        if type(verify) is not int or verify < 0 or verify == 1:
            raise ValueError(f"`verify` must be 0 or an integer of at least 2, got {verify!r}.")
        if not (math.isfinite(stop_factor) and stop_factor > 1):
            raise ValueError(f"`stop_factor` must be a finite number above 1, got {stop_factor!r}.")
        if plot is not None:
            check_can_plot()
        self.update, self.verify, self.plot, self.stop_factor = update, verify, plot, stop_factor
        self.result_: LRRangeResult | None = None
        self._is_resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be ready for the first batch of this fit."""
        wake(self)
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self.result_, self._is_resumed = None, False
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "LRRangeTest: with manual optimization the module steps its optimizers itself, and nobody can do it "
                "aside. Sweep in a loop of your own and give the losses to `functional.suggest_lr(rates, losses)`."
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run that goes on has its rates; Lightning's own finder loads one of step 0."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._is_resumed = checkpoint.get("global_step", 0) > 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go behind those that may change weights at the first batch; of the list that is being called a new one."""
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        place = others.index(Desk.of(trainer))
        trainer.callbacks = [*others[:place], self, *others[place:]]  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """At the first one: sweep, verify, set the rate. Nothing after that."""
        rest(self, ())
        is_try = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a function of Lightning's
        if self._is_resumed or is_try or not trainer.optimizers:
            return
        try:
            result: LRRangeResult = trainer.strategy.broadcast(self._result(trainer, pl_module))
        except CannotReplay as blind:
            raise MisconfigurationException(
                f"LRRangeTest cannot train aside here. {blind} Sweep on one device, with a module that has seen a "
                "batch, and give the run the rate."
            ) from blind
        self.result_ = result
        told = f"LRRangeTest: {result.text()}"
        if self.update and result.suggested is not None:
            scale_rates(trainer.optimizers[0], _schedulers(trainer), result.suggested)
            told += f". It was {result.before:.2g}."
        else:
            told += f". The optimizer keeps {result.before:.2g}."
        Desk.of(trainer).journal.note(told)
        if self.plot is not None and trainer.is_global_zero:
            plot_range_test(result, Path(self.plot))

    def tuning_state(self) -> dict[str, Any]:
        """The result."""
        return {"result": self.result_.to_dict()} if self.result_ is not None else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.result_ = LRRangeResult.from_dict(state["result"])

    def _result(self, trainer: Trainer, pl_module: LightningModule) -> LRRangeResult:
        losses = train_aside(trainer, pl_module, self.rates, lambda so_far: has_diverged(so_far, self.stop_factor))
        rates = self.rates[: len(losses)]
        found = suggest_lr(rates, losses)
        trials = self._trials(trainer, pl_module, found)
        suggested = found.suggested
        if trials:
            suggested = trials[-1].rate if trials[-1].has_lowered else None
        return LRRangeResult(
            rates, losses, found, trials, suggested, base_rate(trainer.optimizers[0], _schedulers(trainer))
        )

    def _trials(self, trainer: Trainer, pl_module: LightningModule, found: LRSuggestion) -> list[LRTrial]:
        trials: list[LRTrial] = []
        if found.suggested is None or not self.verify:
            return trials
        half = self.verify // 2
        untrained = train_aside(trainer, pl_module, [None] * self.verify)
        rate = found.suggested
        while len(trials) < _TRIES and not (trials and trials[-1].has_lowered):
            trained = train_aside(
                trainer, pl_module, [rate] * self.verify, lambda losses: not math.isfinite(losses[-1])
            )
            trials.append(LRTrial(rate, _mean(untrained[half:]), _mean(trained[half:])))
            rate /= 3
        return trials


def _schedulers(trainer: Trainer) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def _mean(losses: list[float]) -> float:
    """NaN for none: a run that broke in its first half."""
    return sum(losses) / len(losses) if losses else math.nan
