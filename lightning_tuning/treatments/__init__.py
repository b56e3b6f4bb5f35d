"""Callbacks that train differently from the start: initialization, schedules, penalties."""

from lightning_tuning.treatments.apply_dropout import ApplyDropout
from lightning_tuning.treatments.convert_batch_norm import ConvertBatchNorm
from lightning_tuning.treatments.dropout_schedule import DropoutSchedule
from lightning_tuning.treatments.plateau_lr import PlateauLR
from lightning_tuning.treatments.recalibrate_batch_norm import RecalibrateBatchNorm
from lightning_tuning.treatments.weight_init import WeightInitCallback

__all__ = [
    "ApplyDropout",
    "ConvertBatchNorm",
    "DropoutSchedule",
    "PlateauLR",
    "RecalibrateBatchNorm",
    "WeightInitCallback",
]
