"""LT506, and the behaviour of torch that it is about."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.rules.plateau_relative_negative import relative_negative


@pytest.mark.parametrize(
    ("value", "threshold", "threshold_mode", "fires"),
    [
        (-1.0, 1e-4, "rel", True),
        (-1e-9, 1e-4, "rel", True),
        (-math.inf, 1e-4, "rel", True),
        (-1.0, 1e-4, "abs", False),
        (-1.0, 0.0, "rel", False),
        (0.0, 1e-4, "rel", False),
        (-0.0, 1e-4, "rel", False),
        (1.0, 1e-4, "rel", False),
        (math.inf, 1e-4, "rel", False),
        (math.nan, 1e-4, "rel", False),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_verdict(value: float, threshold: float, threshold_mode: str, fires: bool, mode: str) -> None:
    finding = relative_negative("X", "nll", value, mode=mode, threshold=threshold, threshold_mode=threshold_mode)
    assert (finding is not None) == fires
    if finding is not None:
        assert finding.evidence["value"] == value
        assert 'threshold_mode="abs"' in finding.remedy


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("threshold_mode", "lowers"), [("rel", False), ("abs", True)])
def test_torch_does_so(mode: str, threshold_mode: str, lowers: bool) -> None:
    """A flat metric of -1 counts as improving for ever, unless the threshold is absolute."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, patience=2, threshold_mode=threshold_mode)
    for _ in range(30):
        scheduler.step(-1.0)
    assert (optimizer.param_groups[0]["lr"] < 1.0) == lowers
