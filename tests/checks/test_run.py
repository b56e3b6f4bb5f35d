"""RunCheck in real fits."""

from __future__ import annotations

import os
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tuning import Journal, RunCheck
from tests.cases.lt904_unseeded_run import Noise
from tests.helpers import ManualGAN, Mlp, blobs, quiet_trainer

OVERFITTING = [0.9, 0.5, 0.3, 0.4, 0.45, 0.5, 0.6]


class Overfitting(Mlp):
    """Trains well; its validation loss is as :data:`OVERFITTING` says."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", OVERFITTING[self.current_epoch])


def run(
    module: pl.LightningModule, *callbacks: pl.Callback, fit: Any = None, **arguments: Any
) -> list[tuple[str, str]]:
    settings = {"logger": CSVLogger("logs"), "enable_checkpointing": True, "max_epochs": 7, "log_every_n_steps": 8}
    trainer = quiet_trainer(callbacks=[RunCheck(), *callbacks], **{**settings, **arguments})
    trainer.fit(module, **(fit or {}))
    return [(finding.code, finding.where) for finding in Journal.of(trainer).findings]


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


LOST = [("LT901", "ModelCheckpoint")]


def test_a_better_model_that_was_not_kept() -> None:
    assert run(Overfitting()) == LOST
    assert run(Overfitting(), max_epochs=5) == []


def test_a_run_that_gets_better_needs_no_best_checkpoint() -> None:
    assert run(Mlp(), max_epochs=4) == []


def test_early_stopping_says_it_beforehand() -> None:
    assert run(Mlp(), EarlyStopping("val_loss"), max_epochs=1) == LOST


@pytest.mark.parametrize(
    "keep", [{"monitor": "val_loss"}, {"save_top_k": -1}, {"save_top_k": 0}], ids=["the best", "all", "none"]
)
def test_what_is_kept_on_purpose(keep: dict[str, Any]) -> None:
    assert run(Overfitting(), ModelCheckpoint(dirpath="kept", **keep)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"logger": False},
        {"enable_checkpointing": False},
        {"fast_dev_run": True},
        {"limit_val_batches": 0},
        {"overfit_batches": 8},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_quiet(arguments: dict[str, Any]) -> None:
    assert run(Overfitting(), **arguments) == []


@pytest.mark.filterwarnings("ignore")  # of the folder, that is not empty
def test_readings_survive_a_checkpoint() -> None:
    # The first part ends after the best epoch, and the second one is told of it.
    assert run(Overfitting(), ModelCheckpoint(dirpath="kept", filename="only"), max_epochs=4) == []
    resumed = run(Overfitting(), max_epochs=6, fit={"ckpt_path": "kept/only.ckpt", "weights_only": False})
    assert resumed == LOST


class Data(pl.LightningDataModule):
    def __init__(self, tokenizer: nn.Module, ignore: list[str] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=[*(ignore or []), "ignore"])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(blobs(64), batch_size=16)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


@pytest.mark.filterwarnings("ignore")
def test_modules_of_the_data_module() -> None:
    arguments: dict[str, Any] = {"logger": False, "max_epochs": 1, "enable_checkpointing": False}
    sick = run(Mlp(), fit={"datamodule": Data(nn.Linear(2, 2))}, **arguments)
    assert sick == [("LT902", "hparams.tokenizer")]
    healthy = run(Mlp(), fit={"datamodule": Data(nn.Linear(2, 2), ["tokenizer"])}, **arguments)
    assert healthy == []


@pytest.mark.parametrize("module", [Mlp, ManualGAN])
def test_an_unseeded_run_that_does_well_is_nobodys_business(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED")
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        assert run(module(), logger=False, enable_checkpointing=False, max_epochs=3) == []


@pytest.mark.parametrize(("seed", "fires"), [(None, True), (3, False)])
def test_a_seed_of_torchs_own_is_a_seed(seed: int | None, fires: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert "PL_GLOBAL_SEED" not in os.environ
    with torch.random.fork_rng(devices=[]):
        torch.seed() if seed is None else torch.manual_seed(seed)
        found = run(Noise(1e-4), logger=False, enable_checkpointing=False, max_epochs=1)
    assert found == ([("LT904", "")] if fires else [])
