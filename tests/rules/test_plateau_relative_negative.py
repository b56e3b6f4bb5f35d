"""LT506, and the behaviour of torch that it is about."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.findings import Severity
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


@pytest.mark.parametrize(
    ("threshold", "severity"),
    [(1e-4, Severity.WARNING), (1e-3, Severity.WARNING), (1.1e-3, Severity.ERROR), (0.1, Severity.ERROR)],
)
def test_severity_and_harm(threshold: float, severity: Severity) -> None:
    finding = relative_negative("X", "nll", -1.0, mode="min", threshold=threshold, threshold_mode="rel")
    assert finding is not None
    assert finding.severity == severity
    assert finding.message.startswith("a slightly worse nll counts as better, so the rate may never be lowered: ")
    assert "nll is -1" in finding.message


@pytest.mark.parametrize(("threshold", "late"), [(1e-4, (0, 4)), (1e-2, (300, 400))])
def test_under_noise_only_a_large_threshold_keeps_the_rate(threshold: float, late: tuple[int, int]) -> None:
    """The measurement behind the two severities: noise of 1e-3 of the value, cut against that of an absolute one."""

    def first_cut(seed: int, mode: str, size: float) -> int:
        readings = (-2 + 2e-3 * torch.randn(400, generator=torch.Generator().manual_seed(seed))).tolist()
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = ReduceLROnPlateau(optimizer, patience=5, threshold=size, threshold_mode=mode)
        for count, value in enumerate(readings):
            scheduler.step(value)
            if optimizer.param_groups[0]["lr"] < 1.0:
                return count
        return len(readings)

    relative, absolute = (
        statistics.median(first_cut(seed, mode, size) for seed in range(9))
        for mode, size in (("rel", threshold), ("abs", 2 * threshold))
    )
    assert late[0] <= relative - absolute <= late[1]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("threshold_mode", "lowers"), [("rel", False), ("abs", True)])
def test_torch_does_so(mode: str, threshold_mode: str, lowers: bool) -> None:
    """A flat metric of -1 counts as improving for ever, unless the threshold is absolute."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, patience=2, threshold_mode=threshold_mode)
    for _ in range(30):
        scheduler.step(-1.0)
    assert (optimizer.param_groups[0]["lr"] < 1.0) == lowers
