"""Callbacks that watch every step and change nothing."""

from lightning_tuning.monitors.gradient_explosion import GradientExplosionMonitor
from lightning_tuning.monitors.learning_curve import LearningCurveMonitor
from lightning_tuning.monitors.overfitting import OverfittingMonitor
from lightning_tuning.monitors.stability_probe import StabilityProbe

__all__ = [
    "GradientExplosionMonitor",
    "LearningCurveMonitor",
    "OverfittingMonitor",
    "StabilityProbe",
]
