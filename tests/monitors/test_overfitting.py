from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from lightning_tuning import Journal, OverfittingMonitor
from lightning_tuning.runtime import CHECKPOINT_KEY
from tests.cases.lt804_over_fitting import EPOCHS, ByHeart
from tests.helpers import quiet_trainer


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> list[str]:
    """The messages and remedies of what was found."""
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[*callbacks], **{**EPOCHS, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    return [finding.text() for finding in Journal.of(trainer).findings]


@pytest.mark.parametrize("wrong", [0, 1, 2.5, True, None])
def test_a_bad_patience_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="`patience` must be a whole number of at least 2"):
        OverfittingMonitor(wrong)


def test_it_names_what_the_run_lacks() -> None:
    (text,) = fit(ByHeart(48), OverfittingMonitor())
    assert "LT804" in text
    for missing in ("EarlyStopping", "nn.Dropout(0.5)` before `net.", "weight decay", "augmentation"):
        assert missing in text
    (text,) = fit(ByHeart(48), OverfittingMonitor(), EarlyStopping("val_loss", patience=100))
    assert "EarlyStopping" not in text


@pytest.mark.parametrize(
    "settings",
    [
        {"overfit_batches": 2},
        {"fast_dev_run": True},
        {"limit_val_batches": 0},
        {"max_epochs": 1, "val_check_interval": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_it_is_quiet_where_nothing_is_wrong(settings: dict[str, Any]) -> None:
    assert fit(ByHeart(48), OverfittingMonitor(2), **settings) == []


def test_without_a_validation_loss_it_says_nothing() -> None:
    assert fit(ByHeart(48), OverfittingMonitor(2, val_loss="nothing")) == []


def test_its_state_goes_with_the_checkpoint(tmp_path: Any) -> None:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[OverfittingMonitor()], max_epochs=4)
    trainer.fit(ByHeart(48))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    kept = torch.load(tmp_path / "half.ckpt", weights_only=True)[CHECKPOINT_KEY]["OverfittingMonitor"]
    assert kept["judge"]["best"] is not None
    resumed = quiet_trainer(callbacks=[OverfittingMonitor()], **EPOCHS)
    with pytest.warns(UserWarning, match="LT804"):
        resumed.fit(ByHeart(48), ckpt_path=tmp_path / "half.ckpt")
