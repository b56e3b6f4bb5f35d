"""LT904: runs that nobody can repeat."""

from __future__ import annotations

import pytest
import torch

from lightning_tuning.rules.unseeded_run import is_seed, unseeded_run


@pytest.mark.parametrize(
    ("progress", "fires"),
    [("flat", True), ("diverging", True), ("learning", False), ("converged", False), ("unknown", False)],
)
def test_verdict(progress: str, fires: bool) -> None:
    assert (unseeded_run(progress) is not None) == fires


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1])
def test_seeds_of_people(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert is_seed(torch.initial_seed())


def test_seeds_of_torch() -> None:
    with torch.random.fork_rng(devices=[]):
        assert not any(is_seed(torch.seed()) for _ in range(20))
