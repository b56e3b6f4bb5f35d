"""How often Lightning steps a scheduler: counted by the rule, and by real fits."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from torch.optim.lr_scheduler import LambdaLR

from lightning_tuning.rules._schedule import Horizon
from lightning_tuning.runtime.run_length import horizon_of, is_trial
from tests.cases._scheduled import Scheduled
from tests.helpers import quiet_trainer

RUNS: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": 3},
    "accumulated": {"max_epochs": 3, "accumulate_grad_batches": 4},
    "steps": {"max_epochs": -1, "max_steps": 17},
    "steps, accumulated": {"max_epochs": -1, "max_steps": 7, "accumulate_grad_batches": 4},
    "steps before epochs": {"max_epochs": 3, "max_steps": 13},
    "epochs before steps": {"max_epochs": 2, "max_steps": 99},
    "limited": {"max_epochs": 2, "limit_train_batches": 5},
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("interval", "frequency"), [("step", 1), ("step", 3), ("epoch", 1), ("epoch", 2)])
def test_ticks_are_lightnings(run: str, interval: str, frequency: int) -> None:
    module = Scheduled(lambda o: LambdaLR(o, lambda step: 1.0), batches=10, interval=interval, frequency=frequency)
    trainer = quiet_trainer(limit_val_batches=0, **RUNS[run])
    trainer.fit(module)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert horizon_of(trainer).ticks(interval, frequency) == scheduler.last_epoch
    assert horizon_of(trainer).steps == trainer.global_step


def test_unknown_lengths() -> None:
    endless = Horizon(epochs=None, batches=10)
    assert endless.steps is None
    assert endless.ticks("step", 1) is None
    assert endless.ticks("epoch", 1) is None
    stream = Horizon(epochs=3, batches=None)
    assert stream.steps is None
    assert stream.ticks("epoch", 1) == 3
    assert stream.ticks("step", 1) is None
    bounded = Horizon(epochs=None, batches=None, max_steps=100)
    assert bounded.ticks("step", 1) == 100
    assert bounded.ticks("step", 3) is None
    assert bounded.ticks("epoch", 1) is None
    assert Horizon(epochs=3, batches=None, max_steps=100).ticks("epoch", 1) is None


@pytest.mark.parametrize(
    ("arguments", "callbacks", "surely"),
    [
        ({}, [], None),
        ({}, [EarlyStopping("val_loss", patience=4)], 4),
        ({"min_epochs": 6}, [EarlyStopping("val_loss", patience=4)], 6),
        ({"val_check_interval": 5}, [EarlyStopping("val_loss", patience=4)], 2),
        ({}, [EarlyStopping("val_loss", patience=4, stopping_threshold=0.0)], 0),
        ({"max_time": "00:01:00:00"}, [], 0),
    ],
)
def test_what_takes_place_whatever_happens(arguments: dict[str, Any], callbacks: list[Any], surely: int | None) -> None:
    module = Scheduled(lambda o: LambdaLR(o, lambda step: 1.0), batches=10)
    trainer = quiet_trainer(max_epochs=1, callbacks=callbacks, **arguments)
    trainer.fit(module)
    assert horizon_of(trainer).surely == surely


def test_accumulation_that_changes_leaves_the_steps_unknown() -> None:
    module = Scheduled(lambda o: LambdaLR(o, lambda step: 1.0))
    trainer = quiet_trainer(callbacks=[GradientAccumulationScheduler({0: 2, 1: 4})])
    trainer.fit(module)
    assert horizon_of(trainer).ticks("step", 1) is None
    assert horizon_of(trainer).ticks("epoch", 1) == 1


@pytest.mark.parametrize(
    ("arguments", "trial"),
    [
        ({}, False),
        ({"limit_train_batches": 0.5}, True),
        ({"limit_train_batches": 5}, False),
        ({"overfit_batches": 2}, True),
    ],
)
def test_trials(arguments: dict[str, Any], trial: bool) -> None:
    assert is_trial(quiet_trainer(**arguments)) == trial
