"""What PlateauLR does not do, and how it says so."""

from __future__ import annotations

import math
import re
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_tuning.treatments import PlateauLR
from tests.helpers import ManualGAN, quiet_trainer
from tests.treatments.plateau_script import Scripted, per_epoch


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module)
    return trainer


SCHEDULED: dict[str, Any] = {
    "two lists": lambda o: ([o], [StepLR(o, 1)]),
    "list and scheduler": lambda o: ([o], StepLR(o, 1)),
    "dicts in lists": lambda o: ([o], [{"scheduler": StepLR(o, 1), "interval": "step"}]),
    "dict": lambda o: {"optimizer": o, "lr_scheduler": StepLR(o, 1)},
    "dict of dict": lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": StepLR(o, 1)}},
    "dicts": lambda o: [{"optimizer": o, "lr_scheduler": StepLR(o, 1)}],
    "plateau": lambda o: {"optimizer": o, "lr_scheduler": ReduceLROnPlateau(o), "monitor": "val_loss"},
}


@pytest.mark.parametrize("shape", SCHEDULED)
def test_a_scheduler_of_the_module_is_not_doubled(shape: str) -> None:
    module = Scripted(per_epoch([1.0]), configure=SCHEDULED[shape])
    with pytest.raises(MisconfigurationException, match=r"already has (StepLR|ReduceLROnPlateau) for optimizer 0"):
        fit(module, PlateauLR("val_loss"))
    assert "configure_optimizers" not in vars(module)


def test_barebones_logs_nothing_to_watch() -> None:
    module = Scripted(per_epoch([1.0]))
    with pytest.raises(MisconfigurationException, match=r"'val_loss'.*barebones=True"):
        fit(module, PlateauLR("val_loss"), barebones=True)
    assert "configure_optimizers" not in vars(module)


@pytest.mark.parametrize("configured", [None, "adam", []])
def test_nothing_to_schedule(configured: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"configure_optimizers|model optimizers|no optimizer"):
        fit(Scripted(per_epoch([1.0]), configure=lambda optimizer: configured), PlateauLR("val_loss"))


class TestTheMetricWasNeverLogged:
    def test_the_others_are_named(self) -> None:
        with pytest.raises(
            MisconfigurationException, match=r"val_los.*'train_loss'.*'val_loss'.*Did you mean 'val_loss'"
        ):
            fit(Scripted(per_epoch([1.0])), PlateauLR("val_los"))

    def test_no_validation(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"No validation runs in this fit.*limit_val_batches=0"):
            fit(Scripted(per_epoch([1.0])), PlateauLR("val_loss"), limit_val_batches=0)

    def test_somebody_may_log_it_late(self) -> None:
        class Late(Scripted):
            def on_train_epoch_end(self) -> None:
                self.log("late", 1.0)

        with pytest.raises(MisconfigurationException, match=r"late_.*not available.*late"):
            fit(Late(per_epoch([1.0])), PlateauLR("late_"))

    def test_every_validation(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"found no such metric.*'val_loss'"):
            fit(Scripted(per_epoch([1.0])), PlateauLR("loss", interval="validation"))

    def test_manual_optimization(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"found no such metric.*'loss_d'"):
            fit(ManualGAN(), PlateauLR("score"))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("monitor", value) for value in ("", None, 3)],
        *[("mode", value) for value in ("auto", None)],
        *[("factor", value) for value in (0.0, 1.0, 2.0, -0.5, math.nan, "0.5", True)],
        *[("patience", value) for value in (-1, 1.5, None, True)],
        *[("threshold", value) for value in (-1e-4, math.nan, math.inf, None)],
        *[("threshold_mode", value) for value in ("relative", None)],
        *[("cooldown", value) for value in (-1, 0.5)],
        *[("min_lr", value) for value in (-1.0, math.nan, [], [0.1, -1.0], "0.1")],
        *[("eps", value) for value in (-1e-8, math.inf)],
        *[("frequency", value) for value in (0, -1, 1.5)],
        *[("interval", value) for value in ("step", None)],
        *[("optimizer", value) for value in (-1, "0", [], [0, 0], True, 0.0)],
    ],
)
def test_bad_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^`{argument}` must .*, got {re.escape(repr(value))}"):
        PlateauLR(**{"monitor": "val_loss", argument: value})


def test_arguments_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"`threshold` must be less than 1 with threshold_mode='rel', got 1.0"):
        PlateauLR("val_loss", threshold=1.0)  # inf * (1 - 1): not even the first reading would be an improvement
    PlateauLR("val_loss", threshold=1.0, threshold_mode="abs")
    with pytest.raises(ValueError, match="`frequency` counts epochs"):
        PlateauLR("val_loss", interval="validation", frequency=2)
    with pytest.raises(ValueError, match=r"`min_lr` must be one number, or one for each of 1 parameter groups"):
        fit(Scripted(per_epoch([1.0])), PlateauLR("val_loss", min_lr=[0.1, 0.2]))
