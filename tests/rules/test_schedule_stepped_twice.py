"""LT513: two who step."""

from __future__ import annotations

import pytest

from lightning_tuning.rules.schedule_stepped_twice import stepped_twice


@pytest.mark.parametrize(
    ("counted", "expected", "fires"),
    [(0, 0, False), (3, 3, False), (2, 3, False), (6, 3, True), (50, 1, True), (50, 0, False)],
)
def test_verdict(counted: int, expected: int, fires: bool) -> None:
    found = stepped_twice("StepLR", counted=counted, expected=expected, batches=50)
    assert (found is not None) == fires
    if found is not None:
        assert found.evidence == {"steps": counted, "by_lightning": expected, "batches": 50}
