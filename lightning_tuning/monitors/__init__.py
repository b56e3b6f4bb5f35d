"""Callbacks that watch every step and change nothing."""

from lightning_tuning.monitors.gradient_explosion import GradientExplosionMonitor

__all__ = ["GradientExplosionMonitor"]
