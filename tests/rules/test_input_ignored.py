"""LT110's verdict, by a table of losses."""

from __future__ import annotations

import pytest

from lightning_tuning.rules.input_ignored import input_ignored

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("real", "zeroed", "first", "is_ignored"),
    [
        (1.0, 1.0, 1.1, True),
        (1.05, 1.0, 1.1, True),
        (0.9, 1.0, 1.1, False),
        (0.01, 1.0, 1.1, False),
        (0.01, 0.01, 1.1, False),
        (0.1, 0.1, 1.1, False),
        (0.0, 1.0, 1.1, False),
        (0.0, 0.0, 0.0, False),
        (NAN, 1.0, 1.1, False),
        (1.0, NAN, 1.1, False),
        (1.0, 1.0, INF, False),
        (-1.0, -1.0, 1.0, False),
    ],
)
def test_verdict(real: float, zeroed: float, first: float, is_ignored: bool) -> None:
    finding = input_ignored(real, zeroed, first, iterations=9, where="batch[0]")
    assert (finding is not None) is is_ignored
    if finding is not None:
        assert finding.where == "batch[0]"
        assert finding.evidence["iterations"] == 9


def test_least_is_taken_off() -> None:
    assert input_ignored(1.01, 1.5, 2.0, iterations=9, least=1.0) is None
    assert input_ignored(1.5, 1.5, 2.0, iterations=9, least=1.0) is not None
