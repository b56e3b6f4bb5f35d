"""A momentum that rises over the first steps of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD, Optimizer, RMSprop

from lightning_tuning.functional.momentum_schedule import (
    check_momentum_arguments,
    has_momentum,
    momentum_at,
    set_momentum_,
)
from lightning_tuning.rules._schedule_copy import leaves
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.scheduler_ticks import scheduler_ticks
from lightning_tuning.treatments._configure import optimizer_indices, pick
from lightning_tuning.treatments.schedule_lr import ScheduleLR

__all__ = ["MomentumSchedule"]


class MomentumSchedule(TuningCallback):
    """Ramps SGD's momentum, or the first of Adam's betas, over the first steps of a run.

    A high momentum carries a run along directions of low curvature, and over the mark while the loss is still steep and
    changing: so start low. The value is put into every parameter group before each update, whatever it was before, and
    counted in updates of the optimizer itself: accumulation, manual optimization and several optimizers are no matter.
    A resumed run goes on with the value that an unbroken one has.

    The last updates of a run with a small ``end`` profit too (Sutskever et al. 2013 go back to .9 for them): that is a
    second one of these, not built in. Adam corrects the bias of its averages as if beta1 had always been what it is
    now: while it rises, updates of the first few steps are larger by a few percent.

    Args:
        start: momentum of the first update, in [0, 1). Default .5.
        end: momentum from the end of the ramp on, in [0, 1). Default .9, what most recipes have from the start.
        over: updates from ``start`` to ``end``, or a fraction of the run's, above 0 and at most 1. Default ``None``: a
            tenth of the run, as long as a warm-up of the rate may take. Not for ``shape="sutskever"``.
        shape: ``"linear"`` (default), ``"cosine"``, or ``"sutskever"``: the stairs of the paper,
            ``min(1 - 2 ** (-1 - log2(step // 250 + 1)), end)``: .5, .75, .83 and so on, .9 after 1000 updates.
        nesterov: ``True`` sets SGD's ``nesterov`` too. Default ``None``: as the optimizer has it; from .9 on the
            run's summary reminds that it costs nothing.
        optimizer: index of the optimizer, or several. Default ``None``: all of them.

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: at the start of training, for an optimizer without momentum, one whose momentum is
            cycled by ``OneCycleLR`` or ``CyclicLR``, or one without Nesterov's; where a fraction is asked of a run
            without known length; or if there is no optimizer of that index.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> callbacks = [MomentumSchedule(start=0.5, end=0.95, over=500, shape="cosine")]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, accelerator="cpu")
        >>> MomentumSchedule(end=1.0)
        Traceback (most recent call last):
        ...
        ValueError: `end` must be at least 0 and less than 1, got 1.0.

    Source: Sutskever, Martens, Dahl & Hinton 2013, On the importance of initialization and momentum in deep learning,
        section 3.
    """

    def __init__(
        self,
        start: float = 0.5,
        end: float = 0.9,
        over: int | float | None = None,  # noqa: PYI041  # jsonargparse keeps an integer one only if told so
        shape: Literal["linear", "cosine", "sutskever"] = "linear",
        *,
        nesterov: Literal[True] | None = None,
        optimizer: int | Sequence[int] | None = None,
    ) -> None:
        check_momentum_arguments(start=start, end=end, over=over, shape=shape)
        if nesterov not in (None, True):
            raise ValueError(f"`nesterov` must be None or True, got {nesterov!r}.")
        self.start, self.end, self.over, self.shape, self.nesterov = start, end, over, shape, nesterov
        self.optimizers = optimizer_indices(optimizer)
        self._scheduled: dict[Optimizer, int] = {}
        self._updates: dict[int, int] = {}
        self._over = 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit begins with no update made."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._scheduled, self._updates = {}, {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the optimizers; refuse what cannot be scheduled."""
        optimizers = trainer.optimizers
        self._scheduled = {}
        for optimizer in pick("MomentumSchedule", self.optimizers, optimizers):
            self._refuse(trainer, optimizer)
            index = next(i for i, known in enumerate(optimizers) if known is optimizer)
            self._scheduled[optimizer] = index
            self._updates.setdefault(index, 0)
        self._over = self._ramp(trainer)
        if self.nesterov:
            for optimizer in self._scheduled:
                for group in optimizer.param_groups:
                    group["nesterov"] = True
        journal = Desk.of(trainer).journal
        if self._scheduled and self._words() not in journal.notes:  # a checkpoint brings them along
            journal.note(self._words())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The momentum of this update; torch reads it after this hook."""
        index = self._scheduled.get(optimizer)
        if index is None:
            return
        set_momentum_(optimizer, self._at(self._updates[index]))
        self._updates[index] += 1

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold on to no optimizer."""
        super().teardown(trainer, pl_module, stage)
        self._scheduled = {}

    def tuning_state(self) -> dict[str, Any]:
        """Updates that each optimizer has made."""
        return {"updates": dict(self._updates)} if self._updates else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """See :meth:`tuning_state`."""
        self._updates = dict(state["updates"])

    def _at(self, update: int) -> float:
        return momentum_at(update, start=self.start, end=self.end, over=self._over, shape=self.shape)

    def _ramp(self, trainer: Trainer) -> int:
        """The length of the ramp in updates."""
        if isinstance(self.over, int) or self.shape == "sutskever":
            return self.over if isinstance(self.over, int) else 1
        share = 0.1 if self.over is None else self.over
        updates = scheduler_ticks(trainer, "step", 1, optimizers=max(1, len(trainer.optimizers)), whole=True)
        if updates is None:
            raise MisconfigurationException(
                f"MomentumSchedule(over={self.over}): this run has no known length ({trainer.max_epochs=}, "
                f"{trainer.max_steps=}, {trainer.num_training_batches=}). Give `over` in updates."
            )
        return max(1, round(share * updates))

    def _refuse(self, trainer: Trainer, optimizer: Optimizer) -> None:
        kind = type(optimizer).__name__
        if not has_momentum(optimizer):
            raise MisconfigurationException(
                f"MomentumSchedule: {kind} has no momentum (neither `momentum` nor `betas` in its groups). Take "
                "another optimizer, or drop MomentumSchedule; `optimizer=` picks one of several."
            )
        if isinstance(optimizer, RMSprop) and self.start == 0:
            raise MisconfigurationException(
                "MomentumSchedule(start=0): RMSprop makes its buffers at the first update, and only for a momentum "
                "above 0. Begin a little above it."
            )
        cycling = next((s for s in _schedulers(trainer) if _cycles(s, optimizer)), None)
        if cycling is not None:
            raise MisconfigurationException(
                f"MomentumSchedule: {type(cycling).__name__} cycles the momentum of {kind} already. Give it "
                "`cycle_momentum=False`, or drop MomentumSchedule."
            )
        if self.nesterov and not isinstance(optimizer, SGD):
            raise MisconfigurationException(f"MomentumSchedule(nesterov=True): {kind} has none, only SGD has.")
        if self.nesterov and any(group["dampening"] != 0 for group in optimizer.param_groups):
            raise MisconfigurationException("MomentumSchedule(nesterov=True): SGD has it only with `dampening=0`.")

    def _words(self) -> str:
        over = "in stairs of 250 updates" if self.shape == "sutskever" else f"over {self._over} updates"
        text = f"MomentumSchedule takes the momentum from {self.start:g} to {self.end:g} {over}"
        plain = [o for o in self._scheduled if isinstance(o, SGD) and not all(g["nesterov"] for g in o.param_groups)]
        if self.end >= 0.9 and any(group["dampening"] == 0 for o in plain for group in o.param_groups):
            text += "; with SGD `nesterov=True` costs nothing and swings less"
        return text


def _schedulers(trainer: Trainer) -> Iterator[Any]:
    """All that are stepped by Lightning or, with manual optimization, by a ScheduleLR."""
    for config in trainer.lr_scheduler_configs:
        yield from leaves(config.scheduler)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    for callback in callbacks:
        if isinstance(callback, ScheduleLR):
            for scheduler in callback.schedulers:
                yield from leaves(scheduler)


def _cycles(scheduler: Any, optimizer: Optimizer) -> bool:
    return scheduler.optimizer is optimizer and bool(getattr(scheduler, "cycle_momentum", False))
