"""LT512: long warm-ups."""

from __future__ import annotations

import pytest
from torch.optim.lr_scheduler import CyclicLR, LinearLR, OneCycleLR

from lightning_tuning.rules.warmup_length import warmup_length
from tests.rules.schedules import HEALTHY, plan, warmup_constant, warmup_cosine


@pytest.mark.parametrize(
    ("warmup", "fires"), [(50, False), (250, False), (500, False), (520, True), (1500, True), (4000, True)]
)
def test_a_tenth_of_the_run(warmup: int, fires: bool) -> None:
    found = warmup_length(plan(warmup_cosine(warmup, 5000)))
    assert (found is not None) == fires
    if found is not None:
        assert found.evidence["warmup"] == pytest.approx(warmup, rel=0.02)


@pytest.mark.parametrize(
    "quiet",
    [
        plan(lambda o: OneCycleLR(o, 0.1, total_steps=5000)),
        plan(lambda o: CyclicLR(o, 1e-3, 0.1, step_size_up=2000)),
        plan(lambda o: LinearLR(o, 0.6, total_iters=2500)),
        plan(warmup_constant(20), epochs=5, batches=8),
        plan(warmup_cosine(1500, 5000), surely=2),
        plan(warmup_constant(1), "epoch"),
    ],
    ids=["one cycle", "cyclic", "from more than half", "a demo of 40 steps", "stopped early", "one epoch of ten"],
)
def test_quiet(quiet) -> None:  # type: ignore[no-untyped-def]
    assert warmup_length(quiet) is None


@pytest.mark.parametrize(
    "name", ["warm-up and cosine", "sequential", "warm-up, then constant", "noam", "cosine per step"]
)
def test_healthy(name: str) -> None:
    assert warmup_length(HEALTHY[name]) is None
