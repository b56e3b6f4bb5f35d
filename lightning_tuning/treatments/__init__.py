"""Callbacks that train differently from the start: initialization, schedules, penalties."""

from lightning_tuning.treatments.export_state import ExportState
from lightning_tuning.treatments.plateau_lr import PlateauLR
from lightning_tuning.treatments.weight_init import WeightInitCallback

__all__ = ["ExportState", "PlateauLR", "WeightInitCallback"]
