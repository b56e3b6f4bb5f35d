"""The learning rates that PlateauLR gives a run, against the rule counted by hand; arguments; what it refuses."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_tuning.findings import Journal
from lightning_tuning.functional.plateau_lr import plateau_lr_config
from lightning_tuning.treatments import PlateauLR
from tests.helpers import ManualGAN, Mlp, quiet_trainer
from tests.treatments.plateau_script import Scripted, per_epoch, per_steps, plateau_rates

FALLING = [5.0, 4.0, 3.0, 2.0, 1.0]
STAIRS = [5.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0]
BROKEN = [5.0, math.nan, 4.0, math.inf, math.nan, -math.inf, 3.0, 3.0, math.nan]


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module)
    return trainer


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        (FALLING, {"patience": 0}),
        ([*FALLING[::-1], 0.5], {"patience": 1, "mode": "max"}),
        (STAIRS, {"patience": 1}),
        (STAIRS, {"patience": 0, "cooldown": 2}),
        (STAIRS, {"patience": 0, "min_lr": 0.2}),
        (STAIRS, {"patience": 0, "eps": 0.1}),
        (STAIRS, {"patience": 1, "factor": 0.1}),
        ([1.0, 0.95, 0.91, 0.85, 0.8], {"patience": 0, "threshold": 0.1}),
        ([1.0, 0.95, 0.91, 0.85, 0.8], {"patience": 0, "threshold": 0.1, "threshold_mode": "abs"}),
        ([-1.0, -1.0, -2.0, -2.0, -2.0], {"patience": 0, "threshold_mode": "abs"}),
        ([0.0, 0.0, 0.0, -0.0, 0.0], {"patience": 1}),
        (BROKEN, {"patience": 0, "threshold_mode": "abs"}),
    ],
)
def test_rates_are_those_of_the_rule(values: list[float], arguments: dict[str, Any]) -> None:
    module = Scripted(per_epoch(values), metric="score")  # whose name says nothing of its direction
    fit(module, PlateauLR("score", **arguments), max_epochs=len(values) + 1)
    counted = {key: value for key, value in arguments.items() if key != "threshold_mode"}
    expected = plateau_rates(values, absolute=arguments.get("threshold_mode") == "abs", **counted)
    assert [*module.lrs.values()] == [1.0, *expected]


readings = st.lists(
    st.one_of(st.floats(0, 10), st.sampled_from([math.nan, math.inf, 0.0, 1.0])), min_size=1, max_size=40
)


@given(readings, st.integers(0, 3), st.integers(0, 3), st.sampled_from(["min", "max"]), st.sampled_from(["rel", "abs"]))
def test_the_scheduler_follows_the_rule(
    values: list[float], patience: int, cooldown: int, mode: str, threshold_mode: str
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    arguments: dict[str, Any] = {"patience": patience, "cooldown": cooldown, "mode": mode, "threshold": 0.01}
    scheduler = plateau_lr_config(optimizer, "loss", threshold_mode=threshold_mode, **arguments)["scheduler"]
    rates = []
    for value in values:
        scheduler.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == plateau_rates(values, absolute=threshold_mode == "abs", **arguments)


def test_lightning_does_the_stepping() -> None:
    stepped = []

    class Watching(Scripted):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            stepped.append((type(scheduler), float(metric), self.trainer.current_epoch))
            super().lr_scheduler_step(scheduler, metric)

    trainer = quiet_trainer(callbacks=[PlateauLR("val_loss", patience=0)], max_epochs=2)
    trainer.fit(Watching(per_epoch([2.0, 1.0])))
    assert stepped == [(ReduceLROnPlateau, 2.0, 0), (ReduceLROnPlateau, 1.0, 1)]
    (config,) = trainer.lr_scheduler_configs
    assert (config.monitor, config.interval, config.frequency, config.reduce_on_plateau, config.strict) == (
        "val_loss",
        "epoch",
        1,
        True,
        True,
    )


def test_it_reads_only_where_there_is_a_validation() -> None:
    """A stale metric, read again, would halve the patience."""
    values = [9.0, 5.0, 9.0, 5.0, 9.0, 5.0, 9.0, 5.0]
    module = Scripted(per_epoch(values))
    fit(module, PlateauLR("val_loss", patience=1), max_epochs=9, check_val_every_n_epoch=2)
    assert [*module.lrs.values()] == [1.0] * 6 + [0.5] * 3


def test_the_last_validation_of_an_epoch_counts() -> None:
    values = [1.0, 5.0, 1.0, 5.0, 9.0, 4.0, 9.0, 4.0]
    module = Scripted(per_steps(values, 2))
    fit(module, PlateauLR("val_loss", patience=0), max_epochs=4, val_check_interval=0.5)
    assert [*module.lrs.values()] == [1.0, *plateau_rates(values[1::2], patience=0)[:3]]
    assert module.rate == 0.25


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"val_check_interval": 0.5}, 2),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, 3),
        ({"val_check_interval": 6, "check_val_every_n_epoch": None}, 6),
        ({}, 4),
        ({"check_val_every_n_epoch": 2}, 8),
    ],
)
def test_every_validation_can_count(settings: dict[str, Any], steps: int) -> None:
    values = [5.0, 5.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    module = Scripted(per_steps(values, steps))
    rates: list[float] = []

    class AfterValidation(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                rates.append(module.rate)

    callback = PlateauLR("val_loss", patience=1, interval="validation")
    fit(module, callback, AfterValidation(), max_epochs=6, **settings)
    assert rates == plateau_rates(values, patience=1)[: len(rates)]
    assert len(rates) == 24 // steps


@pytest.mark.parametrize("settings", [{"val_check_interval": 3, "check_val_every_n_epoch": None}])
def test_validation_apart_from_epochs_needs_a_word(settings: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=r"interval='validation'"):
        fit(Scripted(per_epoch([1.0])), PlateauLR("val_loss"), **settings)
    module = Scripted(per_epoch([1.0]))
    fit(module, PlateauLR("scripted_train", frequency=1, patience=0), max_epochs=3, **settings)
    assert [*module.lrs.values()] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("monitor", ["scripted_train", "train_loss", "train_loss_step", "train_loss_epoch", "late"])
def test_training_metrics_without_a_validation(monitor: str) -> None:
    class Late(Scripted):
        def on_train_epoch_end(self) -> None:
            self.log("late", 1.0)

    module = Late(per_epoch([1.0]))
    fit(module, PlateauLR(monitor, patience=0, threshold=0.99), max_epochs=3, limit_val_batches=0)
    assert [*module.lrs.values()] == [1.0, 1.0, 0.5]


SHAPES: dict[str, Any] = {
    "optimizer": lambda o: o,
    "list": lambda o: [o],
    "tuple": lambda o: (o,),
    "two lists": lambda o: ([o], []),
    "dict": lambda o: {"optimizer": o},
    "dicts": lambda o: [{"optimizer": o}],
    "tuple of dicts": lambda o: ({"optimizer": o},),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_configure_optimizers(shape: str) -> None:
    module = Scripted(per_epoch([1.0]), configure=SHAPES[shape])
    fit(module, PlateauLR("val_loss", patience=0), max_epochs=3)
    assert [*module.lrs.values()] == [1.0, 1.0, 0.5]


def test_a_new_parameter_group_is_no_cut() -> None:
    class Unfreeze(pl.Callback):  # as BaseFinetuning does, at the same point
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                group = {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.01}
                trainer.optimizers[0].add_param_group(group)

    def run(values: list[float]) -> list[str]:
        module = Scripted(per_epoch(values))
        return Journal.of(fit(module, Unfreeze(), PlateauLR("val_loss", patience=0), max_epochs=len(values))).notes

    assert run([5.0, 4.0, 3.0]) == []
    (note,) = run([5.0, 4.0, 4.0])
    assert "lowered the learning rate [1, 0.01] -> [0.5, 0.005] at epoch 2" in note


class TestSeveralOptimizers:
    """Which Lightning allows with manual optimization only, where it steps no scheduler: the callback does."""

    class Gan(ManualGAN):
        def __init__(self, scheduled: bool = False) -> None:
            super().__init__(batches=2)
            self.scheduled = scheduled
            self.lrs: list[list[float]] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("score", 1.0)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                self.lrs.append([round(o.param_groups[0]["lr"] / self.lr, 6) for o in self.trainer.optimizers])

        def configure_optimizers(self) -> Any:
            optimizers = super().configure_optimizers()
            return (optimizers, [StepLR(optimizers[0], 100)]) if self.scheduled else optimizers

    @pytest.mark.parametrize(
        ("optimizer", "after"), [(None, [0.5, 0.5]), (0, [0.5, 1.0]), (1, [1.0, 0.5]), ([0, 1], [0.5, 0.5])]
    )
    def test_picked(self, optimizer: Any, after: list[float]) -> None:
        module = self.Gan()
        fit(module, PlateauLR("score", patience=0, optimizer=optimizer), max_epochs=3)
        assert module.lrs == [[1.0, 1.0], [1.0, 1.0], after]

    def test_the_note_names_the_optimizer(self) -> None:
        trainer = fit(self.Gan(), PlateauLR("score", patience=1), max_epochs=4)
        cuts = [note for note in Journal.of(trainer).notes if "lowered" in note]
        assert len(cuts) == len(set(cuts)) == 2
        for index, note in enumerate(cuts):
            assert f"the learning rate of optimizer {index} " in note
            assert "flat for 2 checks" in note

    def test_two_callbacks_for_two_optimizers(self) -> None:
        module = self.Gan()
        callbacks = [PlateauLR("score", patience=0, optimizer=0), PlateauLR("score", patience=1, optimizer=1)]
        fit(module, *callbacks, max_epochs=4)
        assert module.lrs == [[1.0, 1.0], [1.0, 1.0], [0.5, 1.0], [0.25, 0.5]]
        assert "configure_optimizers" not in vars(module)

    def test_one_has_a_scheduler(self) -> None:
        module = self.Gan(scheduled=True)
        fit(module, PlateauLR("score", patience=0, optimizer=1), max_epochs=3)
        assert module.lrs[-1] == [1.0, 0.5]
        with pytest.raises(MisconfigurationException, match=r"for optimizer 0.*`optimizer=` the index of another"):
            fit(self.Gan(scheduled=True), PlateauLR("score"))

    def test_none_of_that_index(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"optimizer=2.*returned 2 optimizer"):
            fit(self.Gan(), PlateauLR("score", optimizer=2))


def test_each_group_has_its_own_floor_and_the_cut_is_said() -> None:
    def groups(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1})
        return optimizer

    module = Scripted(per_epoch([1.0]), configure=groups)
    trainer = fit(module, PlateauLR("val_loss", patience=0, factor=0.1, min_lr=[0.2, 0.0]), max_epochs=2)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([0.2, 0.01])
    (note,) = Journal.of(trainer).notes
    assert (
        note
        == "PlateauLR lowered the learning rate [1, 0.1] -> [0.2, 0.01] at epoch 1 (val_loss flat for 1 check, best 1)"
    )


def test_the_module_is_given_back() -> None:
    module = Scripted(per_epoch([1.0]))
    fit(module, PlateauLR("val_loss"))
    assert "configure_optimizers" not in vars(module)
    own = lambda: torch.optim.SGD(module.parameters(), lr=3.0)
    module.configure_optimizers = own
    fit(module, PlateauLR("val_loss"))
    assert vars(module)["configure_optimizers"] is own


def test_the_module_is_given_back_after_an_exception() -> None:
    class Fails(pl.Callback):
        def setup(self, *args: Any, **kwargs: Any) -> None:
            raise KeyError("at the start")

    module = Scripted(per_epoch([1.0]))
    with pytest.raises(KeyError, match="at the start"):
        fit(module, PlateauLR("val_loss"), PlateauLR("val_loss", mode="max"), Fails())
    assert "configure_optimizers" not in vars(module)


def test_used_again_and_again() -> None:
    callback = PlateauLR("val_loss", patience=0)
    first, second = Scripted(per_epoch([1.0])), Scripted(per_epoch([1.0]))
    trainer = fit(first, callback, max_epochs=3)
    trainer.fit_loop.max_epochs = 6
    trainer.fit(first)
    assert first.lrs == {0: 1.0, 1: 1.0, 2: 0.5, 3: 1.0, 4: 1.0, 5: 0.5}  # a new fit has a new optimizer
    fit(second, callback, max_epochs=3)
    assert [*second.lrs.values()] == [1.0, 1.0, 0.5]


def test_it_travels() -> None:
    callback = PlateauLR("val_loss", patience=0)
    fit(Scripted(per_epoch([1.0])), callback)
    for other in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
        module = Scripted(per_epoch([1.0]))
        fit(module, other, max_epochs=3)
        assert [*module.lrs.values()] == [1.0, 1.0, 0.5]


def test_out_of_fit_it_does_nothing() -> None:
    module = Mlp()
    trainer = quiet_trainer(callbacks=[PlateauLR("val_loss")])
    trainer.validate(module, verbose=False)
    trainer.test(module, verbose=False)
    trainer.predict(module)
    assert "configure_optimizers" not in vars(module)
