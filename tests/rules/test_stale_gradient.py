"""``LT607``: when gradients that were added up are said to be stale, and in what words."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_tuning import CATALOGUE, Severity
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.rules.stale_gradient import PERSISTENCE, never_set_back, stale_gradient

NAMES = ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias", "head.weight"]


def verdict(names: list[str], **arguments: Any) -> Any:
    return stale_gradient(names, **{"updates": PERSISTENCE, "parameters": 5, "where": "SGD", **arguments})


@pytest.mark.parametrize(
    ("names", "updates", "is_found"),
    [
        ([], 3, False),
        ([], 0, False),
        (NAMES, 0, False),
        (NAMES, PERSISTENCE - 1, False),
        (NAMES, PERSISTENCE, True),
        (NAMES[:1], 40, True),
    ],
)
def test_verdict(names: list[str], updates: int, is_found: bool) -> None:
    assert (verdict(names, updates=updates) is not None) == is_found


def test_words_and_numbers() -> None:
    finding = verdict(NAMES)
    assert finding.severity is Severity.ERROR
    assert finding.where == "SGD"
    assert "`net.0.weight`, `net.0.bias`, `net.2.weight` and 2 more (5 of 5 parameters)" in finding.message
    assert finding.evidence == {"stale_updates": 3, "parameters": 5, "of": 5, "threshold": 3}


def test_the_guard_that_finds_it_afterwards_says_the_same() -> None:
    assert CATALOGUE["LT607"].remedy == verdict(NAMES).remedy == CAUSES["stale-gradient"].remedy
    assert "LT607" in never_set_back(9)
    assert "`optimizer_zero_grad`" in verdict(NAMES, automatic=True).remedy
    assert "manual_backward" not in verdict(NAMES, automatic=True).remedy
