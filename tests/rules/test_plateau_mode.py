"""LT505: what names say of direction, and what the readings say where names are silent."""

from __future__ import annotations

import math

import pytest

from lightning_tuning.rules.plateau_mode import (
    better_direction,
    contradicted_modes,
    contradicts_name,
    contradicts_observation,
)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        *[
            (name, "max")
            for name in ("acc", "val_acc", "val/acc", "valAcc", "val_accuracy_epoch", "Accuracy", "val_f1", "f1")
        ],
        *[
            (name, "max")
            for name in ("acc@5", "top5_acc", "mIoU", "val_mAP50", "AUROC", "val-auc", "reward", "R-precision")
        ],
        *[
            (name, "max")
            for name in ("MulticlassAccuracy", "valacc", "test_psnr", "val_acc/dataloader_idx_0", "BLEU-4")
        ],
        *[
            (name, "min")
            for name in ("loss", "val_loss", "valLoss", "validloss", "train_loss_step", "ce_loss", "nll", "val_rmse")
        ],
        *[
            (name, "min")
            for name in ("dice_loss", "acc_error", "top1_err", "ppl", "perplexity", "fid", "WER", "val/mse")
        ],
        *[
            (name, None)
            for name in ("score", "val_score", "neg_acc", "minus_loss", "accuracy_std", "auc_gap", "", "elbo")
        ],
        *[
            (name, None)
            for name in ("negative_mse", "val", "metric", "account", "balance", "recall_time", "mse_acc", "loss_ratio")
        ],
    ],
)
def test_names(name: str, better: str | None) -> None:
    assert better_direction(name) == better


@pytest.mark.parametrize(
    ("name", "mode", "fires"), [("acc", "min", True), ("acc", "max", False), ("loss", "max", True)]
)
def test_a_mode_against_the_name(name: str, mode: str, fires: bool) -> None:
    finding = contradicts_name("EarlyStopping", name, mode)
    assert (finding is not None) == fires
    if finding is not None:
        assert finding.code == "LT505"
        assert finding.evidence["expected"] != mode
        assert f"mode={finding.evidence['expected']!r}" in finding.remedy


def test_silent_names_contradict_nothing() -> None:
    assert contradicts_name("PlateauLR", "score", "min") is None
    assert contradicts_name("PlateauLR", "score", "max") is None


def test_two_modes_on_one_metric() -> None:
    assert contradicted_modes("PlateauLR", "score", "min", "EarlyStopping", "max") is not None
    assert contradicted_modes("PlateauLR", "score", "min", "EarlyStopping", "min") is None
    assert contradicted_modes("PlateauLR", "acc", "min", "EarlyStopping", "max") is None  # the name has said it already


RISING = [0.1, 0.3, 0.4, 0.45, 0.5, 0.52, 0.51, 0.55]


@pytest.mark.parametrize(
    ("readings", "fires"),
    [
        ([], False),
        (RISING[:7], False),
        (RISING, True),
        ([*RISING, math.nan, math.inf], True),
        ([math.nan] * 9, False),
        ([0.5] * 9, False),
        ([0.5, *RISING], False),  # has been better than at first
        ([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5], False),  # noise
        ([5.0, 2.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], False),  # over-fitting
        (RISING[::-1], False),
    ],
)
def test_observed_direction(readings: list[float], fires: bool) -> None:
    mirrored = [-value for value in readings]
    assert (contradicts_observation("PlateauLR", "score", "min", readings, is_learning=True) is not None) == fires
    assert (contradicts_observation("PlateauLR", "score", "max", mirrored, is_learning=True) is not None) == fires
    assert contradicts_observation("PlateauLR", "score", "min", readings, is_learning=False) is None
    assert contradicts_observation("PlateauLR", "val_loss", "min", readings, is_learning=True) is None


def test_observation_is_no_proof() -> None:
    finding = contradicts_observation("PlateauLR", "score", "min", RISING, is_learning=True)
    assert finding is not None
    assert str(finding.severity) == "warning"
    assert finding.evidence == {"monitor": "score", "mode": "min", "first": 0.1, "last": 0.55, "readings": 8}
