"""Callbacks that watch every step and change nothing."""

from lightning_tuning.monitors.gradient_explosion import GradientExplosionMonitor
from lightning_tuning.monitors.stability_probe import StabilityProbe
from lightning_tuning.monitors.stale_gradient import StaleGradientMonitor
from lightning_tuning.monitors.variance_shift import VarianceShiftMonitor

__all__ = [
    "GradientExplosionMonitor",
    "StabilityProbe",
    "StaleGradientMonitor",
    "VarianceShiftMonitor",
]
