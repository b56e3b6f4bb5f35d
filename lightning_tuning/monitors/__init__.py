"""Callbacks that watch every step and change nothing."""

from lightning_tuning.monitors.activation import ActivationMonitor
from lightning_tuning.monitors.gradient_explosion import GradientExplosionMonitor
from lightning_tuning.monitors.stability_probe import StabilityProbe

__all__ = [
    "ActivationMonitor",
    "GradientExplosionMonitor",
    "StabilityProbe",
]
