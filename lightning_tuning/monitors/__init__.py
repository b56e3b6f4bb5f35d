"""Callbacks that watch every step and change nothing."""

from lightning_tuning.monitors.activation import ActivationMonitor
from lightning_tuning.monitors.clipping import ClippingMonitor
from lightning_tuning.monitors.gradient_explosion import GradientExplosionMonitor
from lightning_tuning.monitors.gradient_vanishing import GradientVanishingMonitor
from lightning_tuning.monitors.learning_curve import LearningCurveMonitor
from lightning_tuning.monitors.overfitting import OverfittingMonitor
from lightning_tuning.monitors.penalty import PenaltyMonitor
from lightning_tuning.monitors.rate import RateMonitor
from lightning_tuning.monitors.stability_probe import StabilityProbe
from lightning_tuning.monitors.stale_gradient import StaleGradientMonitor
from lightning_tuning.monitors.update import UpdateMonitor
from lightning_tuning.monitors.variance_shift import VarianceShiftMonitor

__all__ = [
    "ActivationMonitor",
    "ClippingMonitor",
    "GradientExplosionMonitor",
    "GradientVanishingMonitor",
    "LearningCurveMonitor",
    "OverfittingMonitor",
    "PenaltyMonitor",
    "RateMonitor",
    "StabilityProbe",
    "StaleGradientMonitor",
    "UpdateMonitor",
    "VarianceShiftMonitor",
]
