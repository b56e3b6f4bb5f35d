"""LT108's verdict, by a table of overlaps."""

from __future__ import annotations

import pytest

from lightning_tuning.rules.train_val_leakage import Overlap, train_val_leakage


@pytest.mark.parametrize(
    ("overlap", "is_leak"),
    [
        (Overlap(0, 0, 100, 100, 500, 500), False),
        (Overlap(0, 100, 100, 100, 500, 500), True),
        (Overlap(0, 2, 100, 100, 500, 500), False),
        (Overlap(0, 9, 1000, 1000, 5000, 5000), False),
        (Overlap(0, 10, 1000, 1000, 5000, 5000), True),
        (Overlap(0, 4, 2000, 2000, 2000, 60_000), True),
        (Overlap(0, 50, 100, 100, 500, 500, repeats=250), False),
        (Overlap(0, 90, 100, 100, 500, 500, repeats=50), True),
        (Overlap(0, 0, 0, 0, 0, 0), False),
        (Overlap(0, 5, 0, 100, 500, 500), False),
    ],
)
def test_verdict(overlap: Overlap, is_leak: bool) -> None:
    assert (train_val_leakage(overlap) is not None) is is_leak


def test_share_is_an_estimate_for_all_of_the_data() -> None:
    overlap = Overlap(0, hits=10, val_seen=100, val_total=100, train_seen=1000, train_total=10_000)
    assert overlap.share == 1.0
    assert Overlap(0, 0, 0, 0, 0, 0).share == 0.0


def test_the_loader_is_named() -> None:
    finding = train_val_leakage(Overlap(2, 100, 100, 100, 500, 500))
    assert finding is not None
    assert finding.where == "val_dataloader 2"
