"""Callbacks that watch every step and change nothing."""

from lightning_tuning.monitors.gradient_explosion import GradientExplosionMonitor
from lightning_tuning.monitors.penalty import PenaltyMonitor
from lightning_tuning.monitors.rate import RateMonitor
from lightning_tuning.monitors.stability_probe import StabilityProbe

__all__ = [
    "GradientExplosionMonitor",
    "PenaltyMonitor",
    "RateMonitor",
    "StabilityProbe",
]
