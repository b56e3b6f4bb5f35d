"""A plateau schedule in the module: the same as from the callback, resumes included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.findings import Journal, TuningWarning
from lightning_tuning.mixins import PlateauLRMixin
from lightning_tuning.treatments import PlateauLR
from tests.helpers import ManualGAN, quiet_trainer
from tests.treatments.plateau_script import BATCHES, Script, Scripted, per_epoch, plateau_rates

VALUES = [5.0, 4.0, 4.5, 4.4, 4.3, 3.0, 3.1]
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
]


class Mixed(PlateauLRMixin, Scripted):
    def __init__(self, script: Script, **arguments: Any) -> None:
        super().__init__(script)
        self.arguments = {"monitor": "val_loss", "patience": 0, **arguments}

    def configure_optimizers(self) -> Any:
        return self.with_plateau_lr(torch.optim.SGD(self.parameters(), lr=1.0), **self.arguments)


def fit(
    module: pl.LightningModule, *callbacks: pl.Callback, ckpt_path: str | None = None, **settings: Any
) -> pl.Trainer:
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(callbacks=list(callbacks), enable_checkpointing=saving, **{"max_epochs": 7, **settings})
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def test_rates_are_those_of_the_rule_and_of_the_callback() -> None:
    mixed, plain = Mixed(per_epoch(VALUES)), Scripted(per_epoch(VALUES))
    trainer = fit(mixed)
    assert [*mixed.lrs.values()] == [1.0, *plateau_rates(VALUES, patience=0)[:-1]]
    fit(plain, PlateauLR("val_loss", patience=0))
    assert mixed.lrs == plain.lrs
    assert "PlateauLRMixin lowered the learning rate 1 -> 0.5 at epoch 2" in Journal.of(trainer).notes[0]


@pytest.mark.parametrize(
    "saving", [{"save_on_train_epoch_end": True}, {"save_on_train_epoch_end": False}, {"every_n_train_steps": 3}]
)
def test_resumed(saving: dict[str, Any], tmp_path: Path) -> None:
    unbroken = Mixed(per_epoch(VALUES))
    fit(unbroken, ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **saving))
    for step in (8, 12, 16) if "save_on_train_epoch_end" in saving else (6, 9, 15):
        resumed = Mixed(per_epoch(VALUES))
        fit(resumed, ckpt_path=str(tmp_path / f"step={step}.ckpt"))
        assert resumed.lrs == {epoch: unbroken.lrs[epoch] for epoch in resumed.lrs}, step
        assert min(resumed.lrs) == step // BATCHES
        assert resumed.rate == unbroken.rate


def test_it_reads_only_where_there_is_a_validation() -> None:
    module = Mixed(per_epoch([9.0, 5.0, 9.0, 5.0, 9.0, 5.0]))
    fit(module, check_val_every_n_epoch=2)
    assert [*module.lrs.values()] == [1.0] * 4 + [0.5] * 2 + [0.25]


def test_rules_are_checked() -> None:
    with pytest.warns(TuningWarning, match="LT507 .*PlateauLRMixin lowers the rate after 6"):
        fit(Mixed(per_epoch([1.0]), patience=5), EarlyStopping("val_loss", patience=3))


def test_callbacks_of_the_module_stay() -> None:
    class Brings(Scripted):
        def configure_callbacks(self) -> Sequence[pl.Callback] | pl.Callback:
            return EarlyStopping("val_loss", patience=2)

    class Both(PlateauLRMixin, Brings):
        def configure_optimizers(self) -> Any:
            return self.with_plateau_lr(torch.optim.SGD(self.parameters(), lr=1.0), "val_loss", patience=0)

    trainer = fit(Both(per_epoch([1.0])))
    assert trainer.current_epoch == 3
    assert trainer.fit_loop.epoch_progress.current.completed == 3


def test_the_callback_beside_it_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="already has ReduceLROnPlateau"):
        fit(Mixed(per_epoch([1.0])), PlateauLR("val_loss"))


def test_manual_optimization_is_refused() -> None:
    class Manual(PlateauLRMixin, ManualGAN):
        def configure_optimizers(self) -> Any:
            return self.with_plateau_lr(super().configure_optimizers()[0], "val_loss")

    with pytest.raises(MisconfigurationException, match=r"PlateauLR\(monitor='val_loss'\)"):
        fit(Manual())


@pytest.mark.parametrize(
    ("argument", "value"), [("factor", 1.5), ("patience", -1), ("min_lr", [0.1, 0.1]), ("mode", "up")]
)
def test_bad_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{argument}`"):
        Mixed(per_epoch([1.0]), **{argument: value}).configure_optimizers()


def test_a_module_without_a_plateau_is_left_alone() -> None:
    class Plain(PlateauLRMixin, Scripted):
        pass

    module = Plain(per_epoch([1.0]))
    fit(module)
    assert set(module.lrs.values()) == {1.0}
