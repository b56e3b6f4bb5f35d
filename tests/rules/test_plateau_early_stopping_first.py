"""LT507: who acts first on a flat metric. That the verdict is true of real runs is tested with ``PlateauLR``."""

from __future__ import annotations

import pytest

from lightning_tuning.rules._plateau import judge_plateau
from lightning_tuning.rules.early_stopping_first import early_stopping_first


@pytest.mark.parametrize(
    ("stopping", "plateau", "checks", "fires"),
    [
        (0, 0, 1, True),
        (1, 0, 1, True),
        (2, 0, 1, False),
        (3, 10, 1, True),
        (11, 10, 1, True),
        (12, 10, 1, False),
        (9, 3, 2, True),
        (10, 3, 2, False),
    ],
)
def test_verdict(stopping: int, plateau: int, checks: int, fires: bool) -> None:
    arguments = {"stopping_patience": stopping, "plateau_patience": plateau, "checks_per_reading": checks}
    finding = early_stopping_first("PlateauLR", "val_loss", **arguments)
    assert (finding is not None) == fires
    if finding is not None:
        assert finding.evidence == {"early_stopping_checks": stopping, "plateau_checks": (plateau + 2) * checks - 1}
        suggested = 2 * ((plateau + 2) * checks - 1)
        assert f"patience={suggested}" in finding.remedy
        assert early_stopping_first("PlateauLR", "val_loss", **{**arguments, "stopping_patience": suggested}) is None


def test_all_at_once() -> None:
    stoppers = [("val_acc", "min", 3, 1), ("elbo", "max", 3, 1), ("elbo", "min", 99, 1)]
    findings = judge_plateau(
        "PlateauLR",
        "elbo",
        mode="min",
        patience=5,
        threshold=1e-4,
        threshold_mode="rel",
        stoppers=stoppers,
        readings=[3.0, -2.0],
        is_learning=False,
    )
    assert [(f.code, f.where) for f in findings] == [
        ("LT506", "PlateauLR(elbo)"),
        ("LT505", "EarlyStopping(val_acc)"),
        ("LT505", "PlateauLR(elbo)"),
        ("LT507", "PlateauLR(elbo)"),
    ]
