"""Callbacks that step in when harm is near: skip, stop or raise."""

from lightning_tuning.guards.adaptive_clip import AdaptiveClipGuard
from lightning_tuning.guards.freeze import FreezeGuard
from lightning_tuning.guards.loss_spike import LossSpikeGuard
from lightning_tuning.guards.nan_loss import NanLossGuard
from lightning_tuning.guards.replica_drift import ReplicaDriftGuard

__all__ = [
    "AdaptiveClipGuard",
    "FreezeGuard",
    "LossSpikeGuard",
    "NanLossGuard",
    "ReplicaDriftGuard",
]
