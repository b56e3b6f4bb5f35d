"""ScheduleCheck in real fits: what it says, what it leaves alone, and that the run does not notice."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lightning_tuning import Finding, Journal, PlateauLR, PlateauLRMixin, ScheduleCheck
from lightning_tuning.runtime import Desk
from tests.cases._scheduled import Scheduled
from tests.helpers import ManualGAN, Mlp, TinyModule, quiet_trainer


def fitted(module: pl.LightningModule, *callbacks: pl.Callback, fit: Any = None, **arguments: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[ScheduleCheck(), *callbacks], **arguments)
    trainer.fit(module, **(fit or {}))
    return trainer


def findings(trainer: pl.Trainer) -> list[Finding]:
    return Journal.of(trainer).findings


def found(trainer: pl.Trainer) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in findings(trainer)]


def too_long(**config: Any) -> Scheduled:
    """A cosine for a run that is much longer."""
    return Scheduled(lambda o: CosineAnnealingLR(o, 100), **config)


def notes(trainer: pl.Trainer) -> str:
    return "\n".join(Journal.of(trainer).notes)


def watching(trainer: pl.Trainer) -> list[Any]:
    """Who would still be asked at the ends of batches and epochs."""
    waiting = Desk.of(trainer)._watchers._by_hook
    return [*waiting["train_batch_end"], *waiting["train_epoch_end"]]


@pytest.fixture(autouse=True)
def _hear_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """The runs are sick on purpose, and warnings are errors."""
    warnings.simplefilter("ignore")


def test_it_speaks() -> None:
    assert found(fitted(too_long(), max_epochs=2)) == [("LT502", "CosineAnnealingLR")]


@pytest.mark.parametrize(
    "arguments",
    [{"fast_dev_run": 3}, {"overfit_batches": 4, "max_epochs": 2}, {"limit_train_batches": 0.5, "max_epochs": 2}],
)
def test_trial_runs_are_left_alone(arguments: dict[str, Any]) -> None:
    assert found(fitted(too_long(), **arguments)) == []


def test_no_scheduler_no_watchers() -> None:
    trainer = fitted(Mlp())
    assert found(trainer) == []
    assert len(watching(trainer)) == 0


def test_manual_optimization_steps_by_hand() -> None:
    class Manual(ManualGAN):
        def configure_optimizers(self) -> Any:
            optimizers = super().configure_optimizers()
            return optimizers, [StepLR(optimizers[0], 100), CosineAnnealingLR(optimizers[1], 500)]

        def on_train_epoch_end(self) -> None:
            for scheduler in self.lr_schedulers():
                scheduler.step()

    trainer = fitted(Manual(), max_epochs=3)
    assert found(trainer) == []
    assert notes(trainer) == ""


def test_averaging_takes_the_schedule_over() -> None:
    assert found(fitted(too_long(), StochasticWeightAveraging(1e-2, swa_epoch_start=1), max_epochs=3)) == []


def test_early_stopping_makes_the_length_an_upper_bound() -> None:
    def module() -> Scheduled:
        return Scheduled(lambda o: CosineAnnealingLR(o, 3))

    assert found(fitted(module(), max_epochs=6)) == [("LT503", "CosineAnnealingLR")]
    assert found(fitted(module(), EarlyStopping("val_loss", patience=2), max_epochs=6)) == []


class Stop(pl.Callback):
    """Ends a run that has no end."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= 10


def test_a_run_of_unknown_length_is_said_to_be_one() -> None:
    trainer = fitted(too_long(), Stop(), max_epochs=-1)
    assert found(trainer) == []
    assert "does not know the length of this run" in notes(trainer)
    endless = fitted(Scheduled(lambda o: CyclicLR(o, 1e-3, 0.1)), Stop(), max_epochs=-1)
    assert notes(endless) == ""


def test_a_schedule_that_cannot_be_copied_is_said_to_be_one() -> None:
    numbers = itertools.count()
    trainer = fitted(Scheduled(lambda o: LambdaLR(o, lambda step: 1.0 + 0 * next(numbers))), max_epochs=3)
    assert found(trainer) == []
    assert "LambdaLR cannot be run on paper" in notes(trainer)
    assert next(numbers) == 4  # the first step, and one per epoch


def test_a_module_that_steps_in_its_own_way() -> None:
    class Own(Scheduled):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step()
            scheduler.step()

    trainer = fitted(Own(lambda o: CosineAnnealingLR(o, 100)), max_epochs=4)
    assert found(trainer) == []
    assert "overrides `lr_scheduler_step`" in notes(trainer)


def test_a_function_that_counts_gives_the_run_the_rates_it_would_have_had() -> None:
    def run(*callbacks: pl.Callback) -> list[float]:
        calls = 0

        def factor(step: int) -> float:
            nonlocal calls
            calls += 1
            return 0.9**calls

        rates: list[float] = []

        class Note(pl.Callback):
            def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        module = Scheduled(lambda o: LambdaLR(o, factor), interval="step")
        quiet_trainer(callbacks=[*callbacks, Note()], max_epochs=2).fit(module)
        return rates

    assert run() == run(ScheduleCheck())


def test_a_resumed_run_hears_nothing_new(tmp_path: Any) -> None:
    module = Scheduled(lambda o: CosineAnnealingLR(o, 3))
    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    assert found(fitted(module, keep, max_epochs=3, enable_checkpointing=True)) == []
    resumed = fitted(module, max_epochs=9, fit={"ckpt_path": tmp_path / "last.ckpt", "weights_only": False})
    assert found(resumed) == []


def test_a_second_fit_begins_anew() -> None:
    check = ScheduleCheck()
    for _ in range(2):
        trainer = quiet_trainer(callbacks=[check], max_epochs=2)
        trainer.fit(too_long())
        assert found(trainer) == [("LT502", "CosineAnnealingLR")]


# LT513


class ByHand(Scheduled):
    """Steps its scheduler at the ends of epochs, though Lightning does too."""

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()


def test_stepped_twice_per_epoch() -> None:
    trainer = fitted(ByHand(lambda o: StepLR(o, 2, gamma=0.9)), max_epochs=5)
    assert found(trainer) == [("LT513", "StepLR")]
    assert findings(trainer)[0].evidence["by_lightning"] == 3


def test_a_plateau_scheduler_stepped_twice() -> None:
    class Plateau(Scheduled):
        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.lr_schedulers().step(self.trainer.callback_metrics["val_loss"])

    module = Plateau(ReduceLROnPlateau, monitor="val_loss")
    assert found(fitted(module, max_epochs=4)) == [("LT513", "ReduceLROnPlateau")]


def test_a_first_step_by_hand_is_meant() -> None:
    class First(Scheduled):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.global_step == 1:
                self.lr_schedulers().step()

    assert found(fitted(First(lambda o: CosineAnnealingLR(o, 25), interval="step"), max_epochs=3)) == []


def test_who_steps_alone_may() -> None:
    class Alone(Scheduled):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.lr_schedulers().step()

    module = Alone(lambda o: CosineAnnealingLR(o, 16), interval="epoch", frequency=10**9)
    assert found(fitted(module, max_epochs=4)) == []


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=4), CosineAnnealingLR(o, 76)], milestones=[4]),
        lambda o: ChainedScheduler([LinearLR(o, 0.1, total_iters=4), StepLR(o, 40)]),
        lambda o: CosineAnnealingWarmRestarts(o, 20),
        lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=10),
        lambda o: CosineAnnealingLR(o, 80),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_counts_agree_and_the_counting_ends(schedule: Any, accumulate: int) -> None:
    module = Scheduled(schedule, batches=16, interval="step")
    trainer = fitted(module, max_epochs=5, accumulate_grad_batches=accumulate)
    assert "LT513" not in dict(found(trainer))
    assert watching(trainer) == []


# LT505 to LT507


class Scored(TinyModule):
    """A healthy net whose validation score, of a name that tells nothing, is as ``scores`` say."""

    build = Mlp.build

    def __init__(self, scores: list[float], schedule: Any = None) -> None:
        super().__init__(lr=0.02, batches=16)
        self.scores, self.schedule = scores, schedule

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "monitor": "score"}}


RISING = [i / 10 for i in range(12)]


@pytest.mark.parametrize(("mode", "fires"), [("min", True), ("max", False)])
def test_a_plateau_scheduler_that_waits_for_the_wrong_direction(mode: Any, fires: bool) -> None:
    module = Scored(RISING, lambda o: ReduceLROnPlateau(o, mode, patience=50, threshold_mode="abs"))
    trainer = fitted(module, max_epochs=10)
    assert found(trainer) == ([("LT505", "ReduceLROnPlateau(score)")] if fires else [])


@pytest.mark.parametrize(("mode", "fires"), [("min", True), ("max", False)])
def test_early_stopping_that_waits_for_the_wrong_direction(mode: Any, fires: bool) -> None:
    trainer = fitted(Scored(RISING), EarlyStopping("score", mode=mode, patience=50), max_epochs=10)
    assert found(trainer) == ([("LT505", "EarlyStopping(score)")] if fires else [])


def test_a_score_that_becomes_negative() -> None:
    scores = [1.0, 0.5, -0.5, -0.6]
    module = Scored(scores, lambda o: ReduceLROnPlateau(o, threshold=0.1))
    assert found(fitted(module, max_epochs=2)) == []
    trainer = fitted(Scored(scores, lambda o: ReduceLROnPlateau(o, threshold=0.1)), max_epochs=4)
    assert found(trainer) == [("LT506", "ReduceLROnPlateau(score)")]
    assert findings(trainer)[0].epoch == 2


def test_checkpoints_that_keep_the_worst(tmp_path: Any) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, monitor="val_acc")
    assert found(fitted(Mlp(), keep, enable_checkpointing=True)) == [("LT505", "ModelCheckpoint(val_acc)")]
    keep = ModelCheckpoint(dirpath=tmp_path, monitor="val_acc", mode="max")
    assert found(fitted(Mlp(), keep, enable_checkpointing=True)) == []


@pytest.mark.parametrize("order", [0, 1])
def test_what_plateau_lr_says_of_its_own_is_not_said_twice(order: int) -> None:
    callbacks: list[pl.Callback] = [ScheduleCheck(), EarlyStopping("val_acc", mode="min", patience=2)]
    callbacks.insert(order, PlateauLR("val_acc", mode="min"))
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=2)
    trainer.fit(Mlp())
    assert sorted((f.code, f.where, f.count) for f in findings(trainer)) == [
        ("LT505", "EarlyStopping(val_acc)", 1),
        ("LT505", "PlateauLR(val_acc)", 1),
        ("LT507", "PlateauLR(val_acc)", 1),
    ]


def test_what_the_mixin_says_of_its_own_is_not_said_twice() -> None:
    class Mixed(PlateauLRMixin, Mlp):
        def configure_optimizers(self) -> Any:
            return self.with_plateau_lr(super().configure_optimizers(), "val_acc", mode="min")

    assert found(fitted(Mixed(), max_epochs=2)) == [("LT505", "PlateauLRMixin(val_acc)")]


def test_readings_survive_a_checkpoint(tmp_path: Any) -> None:
    def made() -> Scored:
        return Scored(RISING, lambda o: ReduceLROnPlateau(o, patience=50))

    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_on_train_epoch_end=True)
    assert found(fitted(made(), keep, max_epochs=5, enable_checkpointing=True)) == []
    resumed = fitted(made(), max_epochs=10, fit={"ckpt_path": tmp_path / "last.ckpt", "weights_only": False})
    assert found(resumed) == [("LT505", "ReduceLROnPlateau(score)")]


def test_metrics_are_no_longer_read_when_nothing_hangs_on_them() -> None:
    trainer = fitted(Scheduled(lambda o: ReduceLROnPlateau(o, threshold_mode="abs"), monitor="val_loss"), max_epochs=2)
    assert [type(look.__self__).__name__ for look in watching(trainer)] == ["StepCount"]  # for three epochs
