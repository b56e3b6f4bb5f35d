"""LT901: models that were better than the one that is kept."""

from __future__ import annotations

import math

import pytest

from lightning_tuning.rules.no_best_checkpoint import best_is_lost, metric_to_compare, stops_past_the_best


@pytest.mark.parametrize(
    ("metric", "readings", "fires"),
    [
        ("val_loss", [], False),
        ("val_loss", [0.5], False),
        ("val_loss", [0.5, 0.4, 0.39, 0.38, 0.38, 0.385], False),
        ("val_loss", [0.5, 0.3, 0.4, 0.31, 0.4, 0.4], False),
        ("val_loss", [0.5, 0.3, 0.4, 0.42, 0.45], True),
        ("val_loss", [-2.0, -3.0, -2.5, -2.4, -2.0], True),
        ("val_loss", [0.5, 0.0, 0.0, 0.0, 0.0], False),
        ("val_loss", [0.5, 0.3, math.nan, 0.42, 0.45], False),
        ("val_loss", [0.5, 0.3, math.inf, 0.42, 0.45], False),
        ("val_acc", [0.5, 0.9, 0.7, 0.7, 0.7], True),
        ("val_acc", [0.5, 0.97, 0.965, 0.966, 0.965], False),
        ("val_acc", [90.0, 95.0, 80.0, 80.0, 80.0], True),
        ("val_score", [0.5, 0.3, 0.4, 0.42, 0.45], False),
    ],
)
def test_verdict(metric: str, readings: list[float], fires: bool) -> None:
    found = best_is_lost(metric, readings)
    assert (found is not None) == fires
    if found is not None:
        assert str(found.severity) == "info"
        assert found.evidence["last"] == readings[-1]


@pytest.mark.parametrize(("patience", "fires"), [(0, False), (1, True), (10, True)])
def test_early_stopping(patience: int, fires: bool) -> None:
    assert (stops_past_the_best("val_acc", patience) is not None) == fires


def test_the_remedy_knows_which_way_is_better() -> None:
    found = stops_past_the_best("val_acc", 3)
    assert found is not None
    assert "mode='max'" in found.remedy


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        ([], None),
        (["train_loss"], None),
        (["val_score"], None),
        (["val_acc"], "val_acc"),
        (["val_acc", "valid/loss"], "valid/loss"),
    ],
)
def test_the_metric_that_tells(metrics: list[str], chosen: str | None) -> None:
    assert metric_to_compare(metrics) == chosen
