"""Callbacks that look once, or a few times, and change nothing unless told to."""

from lightning_tuning.checks.dropout_bn_conflict import DropoutBNConflictWarning

__all__ = ["DropoutBNConflictWarning"]
