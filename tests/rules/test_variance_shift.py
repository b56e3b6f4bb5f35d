"""``LT302``: which ratios and losses are a shift that harms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_tuning.rules.variance_shift import LossesBy, shifted, variance_shift

nan, inf = math.nan, math.inf
FEEDING = {name: (f"drop_{name}", 0.5, f"net.py:{line}") for line, name in enumerate("abc")}


def verdict(ratios: dict[str, float], losses: LossesBy, first_loss: float = 2.3) -> Any:
    return variance_shift(ratios, losses, first_loss=first_loss, dropouts=FEEDING, batches=400)


@pytest.mark.parametrize(
    ("ratios", "median"),
    [
        ([], None),
        ([1.0], None),
        ([1.3], None),
        ([1.31], 1.31),
        ([nan], None),
        ([inf], None),
        ([0.0, 9.0, 1.2], None),
        ([1.0, 2.0, 3.0], 2.0),
        ([nan, 2.0], 2.0),
        ([0.5, 0.6], None),
    ],
)
def test_the_median_counts(ratios: list[float], median: float | None) -> None:
    assert shifted({str(i): ratio for i, ratio in enumerate(ratios)}) == median


@pytest.mark.parametrize(
    ("running", "dropped", "whole", "first_loss", "found"),
    [
        ([1.0, 1.0], [1.0, 1.0], [0.8, 0.8], 2.3, True),
        ([1.0, 1.0], [1.0, 1.0], [0.96, 0.96], 2.3, False),  # four per cent
        ([1.0, 1.0], [0.8, 0.8], [0.8, 0.8], 2.3, False),  # the running statistics lag behind, or are of other data
        ([1.0, 1.0], [0.84, 0.84], [0.8, 0.8], 2.3, False),
        ([1.0, 1.0], [1.0, 1.0], [0.5, 1.1], 2.3, False),  # by chance
        ([1.0, 1.0], [1.0, 1.0], [1.2, 1.2], 2.3, False),  # evaluation is better as it is
        ([0.03, 0.03], [0.03, 0.03], [0.02, 0.02], 2.3, False),  # a third of almost nothing
        ([0.03, 0.03], [0.03, 0.03], [0.02, 0.02], 0.1, True),
        ([-3.0], [-3.0], [-3.1], 1.0, False),  # a likelihood
        ([-3.0], [-3.0], [-3.5], 1.0, True),
        ([0.0], [0.0], [0.0], 0.0, False),
        ([nan], [1.0], [0.5], 2.3, False),
        ([1.0], [nan], [0.5], 2.3, False),
        ([1.0], [1.0], [nan], 2.3, False),
        ([1.0], [1.0], [-inf], 2.3, False),
        ([inf], [inf], [1.0], 2.3, False),
        ([1.0], [1.0], [0.5], nan, False),
        ([], [], [], 2.3, False),
    ],
)
def test_losses(running: Any, dropped: Any, whole: Any, first_loss: float, *, found: bool) -> None:
    assert (verdict({"a": 1.9}, LossesBy(running, dropped, whole), first_loss) is not None) == found


def test_without_a_shift_no_loss_tells() -> None:
    assert verdict({"a": 1.2}, LossesBy([1.0], [1.0], [0.1])) is None


def test_the_dropout_before_the_largest_shift_is_named() -> None:
    finding = verdict({"a": 1.4, "b": 2.4, "c": 1.9}, LossesBy([1.0, 2.0], [1.1, 2.1], [0.4, 1.1]))
    assert (finding.where, finding.source_line) == ("drop_b", "net.py:1")
    assert finding.evidence["ratio"] == 1.9
    assert finding.evidence["largest_ratio"] == 2.4
    assert (finding.evidence["loss"], finding.evidence["loss_without_dropout_statistics"]) == (1.5, 0.75)
    assert "median of 3 batch norms 1.9" in finding.message
