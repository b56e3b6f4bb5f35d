"""Callbacks that step in when harm is near: skip, stop or raise."""

from lightning_tuning.guards.nan_loss import NanLossGuard

__all__ = ["NanLossGuard"]
