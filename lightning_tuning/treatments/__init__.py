"""Callbacks that train differently from the start: initialization, schedules, penalties."""

from lightning_tuning.treatments.lr_range_test import LRRangeTest
from lightning_tuning.treatments.plateau_lr import PlateauLR
from lightning_tuning.treatments.weight_init import WeightInitCallback

__all__ = ["LRRangeTest", "PlateauLR", "WeightInitCallback"]
