"""A run resumed from any checkpoint has the learning rates, and the weights, of a run that was never broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.findings import Journal
from lightning_tuning.treatments import PlateauLR
from tests.helpers import quiet_trainer
from tests.treatments.plateau_script import BATCHES, Scripted, per_epoch, per_steps, plateau_rates

EPOCHS = 7
VALUES = [5.0, 4.0, 4.5, 4.4, 4.3, 3.0, 3.1, 3.2, 3.3, 3.4]
HALVES = [9.0, 5.0, 9.0, 4.0, 4.1, 4.2, 3.0, 2.9, 5.0, 5.0, 5.0, 2.0, 3.0, 3.0, 3.0, 3.0]

RUNS: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": EPOCHS},
    "steps": {"max_epochs": None, "max_steps": EPOCHS * BATCHES},
    "half epochs": {"max_epochs": EPOCHS, "val_check_interval": 0.5},
    "every second epoch": {"max_epochs": EPOCHS, "check_val_every_n_epoch": 2},
    "no sanity check": {"max_epochs": EPOCHS, "num_sanity_val_steps": 0},
    "accumulating": {"max_epochs": EPOCHS, "accumulate_grad_batches": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "train epoch end": {"save_on_train_epoch_end": True},
    "validation end": {"save_on_train_epoch_end": False},
    "best": {"monitor": "val_loss", "save_on_train_epoch_end": False},
    "inside an epoch": {"every_n_train_steps": 3},
}
pytestmark = [
    # Both are said of every resume in this file: checkpoints from inside an epoch, resumed without what wrote them.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
]


def fit(
    module: pl.LightningModule, *callbacks: pl.Callback, ckpt_path: str | None = None, **settings: Any
) -> pl.Trainer:
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(callbacks=list(callbacks), enable_checkpointing=saving, **settings)
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def saver(folder: Path, **settings: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", **{"save_top_k": -1, **settings})


def saved(folder: Path) -> dict[int, str]:
    return dict(sorted((int(path.stem.removeprefix("step=")), str(path)) for path in folder.glob("*.ckpt")))


def is_just_before_validation(step: int, kind: str, every: int = BATCHES) -> bool:
    """Lightning does not catch up on the validation that was to follow: see the tests on that case below."""
    return kind == "inside an epoch" and step % every == 0


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_rates_equal_those_of_an_unbroken_run(run: str, kind: str, tmp_path: Path) -> None:
    settings = RUNS[run]
    arguments: dict[str, Any] = {
        "monitor": "val_loss",
        "patience": 0 if run == "every second epoch" else 1,
        "cooldown": 1,
    }
    unbroken = Scripted(per_epoch(VALUES))
    fit(unbroken, PlateauLR(**arguments), saver(tmp_path, **KINDS[kind]), **settings)
    assert len(set(unbroken.lrs.values())) > 1

    every = BATCHES // settings.get("accumulate_grad_batches", 1)
    written = {step: path for step, path in saved(tmp_path).items() if not is_just_before_validation(step, kind, every)}
    assert len(written) >= 2
    stride = 1 + len(written) // 5  # of many, some
    for step, path in list(written.items())[::stride]:
        resumed = Scripted(per_epoch(VALUES))
        fit(resumed, PlateauLR(**arguments), ckpt_path=path, **settings)
        assert resumed.lrs == {epoch: unbroken.lrs[epoch] for epoch in resumed.lrs}, step
        assert resumed.rate == unbroken.rate or not resumed.lrs, step  # all epochs were done
        if step % every == 0:  # elsewhere Lightning begins the epoch's data anew
            assert torch.equal(resumed.weight, unbroken.weight), step


@pytest.mark.parametrize("kind", ["train epoch end", "validation end", "last batch"])
def test_resumed_on_a_training_metric(kind: str, tmp_path: Path) -> None:
    """Its mean over the epoch is not yet in ``callback_metrics`` when a validation's checkpoint is written."""
    saving = {**KINDS, "last batch": {"every_n_train_steps": BATCHES}}[kind]
    callback = PlateauLR("scripted_train", patience=0, threshold=0.0)
    unbroken = Scripted(per_epoch(VALUES))
    fit(unbroken, callback, saver(tmp_path, **saving), max_epochs=EPOCHS)
    assert [*unbroken.lrs.values()][1:] == plateau_rates(VALUES, patience=0, threshold=0.0)[: EPOCHS - 1]
    for step, path in saved(tmp_path).items():
        resumed = Scripted(per_epoch(VALUES))
        fit(resumed, PlateauLR("scripted_train", patience=0, threshold=0.0), ckpt_path=path, max_epochs=EPOCHS)
        assert resumed.lrs == {epoch: unbroken.lrs[epoch] for epoch in resumed.lrs}, step
        assert resumed.rate == unbroken.rate or not resumed.lrs, step


def test_a_validation_that_lightning_skips_is_said(tmp_path: Path) -> None:
    """Resumed from an epoch's last batch, Lightning does not validate that epoch: one reading is lost, and no more."""
    fit(Scripted(per_epoch(VALUES)), PlateauLR("val_loss", patience=0), saver(tmp_path, every_n_train_steps=BATCHES))
    resumed = Scripted(per_epoch(VALUES))
    path = saved(tmp_path)[BATCHES]
    trainer = fit(resumed, PlateauLR("val_loss", patience=0), ckpt_path=path, max_epochs=EPOCHS)
    assert [*resumed.lrs.values()][1:] == plateau_rates(VALUES[1:], patience=0)[: EPOCHS - 2]
    (said,) = (note for note in Journal.of(trainer).notes if "no reading" in note)
    assert "epoch 0" in said
    assert "val_loss" in said


def test_lightning_alone_loses_a_step(tmp_path: Path) -> None:
    """What this callback is for; once Lightning keeps the step itself, this test says so."""

    def configure(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}

    unbroken = Scripted(per_epoch(VALUES), configure=configure)
    fit(unbroken, saver(tmp_path, save_on_train_epoch_end=True), max_epochs=EPOCHS)
    resumed = Scripted(per_epoch(VALUES), configure=configure)
    fit(resumed, ckpt_path=saved(tmp_path)[3 * BATCHES], max_epochs=EPOCHS)
    assert unbroken.lrs[4] == 0.5
    assert resumed.lrs[4] == 1.0


def test_resumed_twice(tmp_path: Path) -> None:
    """A checkpoint of a resumed, and of a mended, epoch is as good as any other."""
    unbroken = Scripted(per_epoch(VALUES))
    fit(unbroken, PlateauLR("val_loss", patience=0), max_epochs=EPOCHS)
    arguments = {"every_n_train_steps": 3}
    fit(
        Scripted(per_epoch(VALUES)), PlateauLR("val_loss", patience=0), saver(tmp_path / "1", **arguments), max_epochs=4
    )
    end = saver(tmp_path / "2", save_on_train_epoch_end=True)
    first = saved(tmp_path / "1")[9]
    fit(Scripted(per_epoch(VALUES)), PlateauLR("val_loss", patience=0), end, ckpt_path=first, max_epochs=5)
    for path in saved(tmp_path / "2").values():
        resumed = Scripted(per_epoch(VALUES))
        fit(resumed, PlateauLR("val_loss", patience=0), ckpt_path=path, max_epochs=EPOCHS)
        assert resumed.lrs == {epoch: unbroken.lrs[epoch] for epoch in resumed.lrs}
        assert resumed.rate == unbroken.rate


def test_continued_after_a_finished_fit(tmp_path: Path) -> None:
    unbroken = Scripted(per_epoch(VALUES))
    fit(unbroken, PlateauLR("val_loss", patience=0), max_epochs=EPOCHS)
    end = saver(tmp_path, save_on_train_epoch_end=True)
    trainer = fit(Scripted(per_epoch(VALUES)), PlateauLR("val_loss", patience=0), end, max_epochs=4)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    # Resumed with nothing left to train, and saved again: what was due is due still.
    callback = PlateauLR("val_loss", patience=0)
    trainer = fit(Scripted(per_epoch(VALUES)), callback, ckpt_path=str(tmp_path / "step=16.ckpt"), max_epochs=4)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    for name in ("after", "again"):
        resumed = Scripted(per_epoch(VALUES))
        path = str(tmp_path / f"{name}.ckpt")
        fit(resumed, PlateauLR("val_loss", patience=0), ckpt_path=path, max_epochs=EPOCHS)
        assert resumed.lrs == {epoch: unbroken.lrs[epoch] for epoch in range(4, EPOCHS)}, name
        assert resumed.rate == unbroken.rate


@pytest.mark.parametrize("kind", KINDS)
def test_every_validation_a_reading(kind: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"monitor": "val_loss", "patience": 1, "interval": "validation"}
    settings: dict[str, Any] = {"max_epochs": EPOCHS, "val_check_interval": 0.5}
    unbroken = Scripted(per_steps(HALVES, BATCHES // 2))
    fit(unbroken, PlateauLR(**arguments), saver(tmp_path, **KINDS[kind]), **settings)
    rates = plateau_rates(HALVES, patience=1)
    assert [*unbroken.lrs.values()][1:] == rates[1 : 2 * EPOCHS - 1 : 2][: EPOCHS - 1]
    for step, path in list(saved(tmp_path).items())[::2]:
        if is_just_before_validation(step, kind, BATCHES // 2):
            continue
        resumed = Scripted(per_steps(HALVES, BATCHES // 2))
        fit(resumed, PlateauLR(**arguments), ckpt_path=path, **settings)
        whole = {epoch: lr for epoch, lr in resumed.lrs.items() if epoch * BATCHES >= step}
        assert whole == {epoch: unbroken.lrs[epoch] for epoch in whole}, step
        assert resumed.rate == unbroken.rate, step


def test_the_state_loads_as_weights_only(tmp_path: Path) -> None:
    fit(Scripted(per_epoch(VALUES)), PlateauLR("val_loss"), saver(tmp_path, save_on_train_epoch_end=True), max_epochs=2)
    state = torch.load(saved(tmp_path)[2 * BATCHES], weights_only=True)["lightning_tuning"]["PlateauLR"]
    assert (state["epoch"], state["is_due"], state["value"], state["readings"]) == (1, True, 4.0, [5.0])


def test_arguments_of_the_resumed_run_hold(tmp_path: Path) -> None:
    fit(Scripted(per_epoch([1.0])), PlateauLR("val_loss", patience=9), saver(tmp_path), max_epochs=3)
    path = saved(tmp_path)[3 * BATCHES]
    resumed = Scripted(per_epoch([1.0]))
    trainer = fit(resumed, PlateauLR("val_loss", patience=2, factor=0.1), ckpt_path=path, max_epochs=6)
    # Three readings, two of them flat, came with the checkpoint; epoch 3 brings the third flat one.
    assert resumed.lrs == pytest.approx({3: 1.0, 4: 0.1, 5: 0.1})
    assert "PlateauLR goes on with other arguments than the checkpoint's: factor, patience" in Journal.of(trainer).notes


def test_another_metric_starts_without_a_best_value(tmp_path: Path) -> None:
    fit(Scripted(per_epoch([1.0])), PlateauLR("val_loss", patience=1), saver(tmp_path), max_epochs=2)
    path = saved(tmp_path)[2 * BATCHES]
    resumed = Scripted(per_epoch([7.0]), metric="val_mse")
    fit(resumed, PlateauLR("val_mse", patience=1), ckpt_path=path, max_epochs=7)
    assert [*resumed.lrs.values()] == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_attached_for_the_resume_only(tmp_path: Path) -> None:
    fit(Scripted(per_epoch(VALUES)), saver(tmp_path), max_epochs=3)
    resumed = Scripted(per_epoch(VALUES))
    fit(resumed, PlateauLR("val_loss", patience=0), ckpt_path=saved(tmp_path)[3 * BATCHES], max_epochs=EPOCHS)
    assert [*resumed.lrs.values()][1:] == plateau_rates(VALUES[3:], patience=0)[: EPOCHS - 4]
