"""Callbacks that train differently from the start: initialization, schedules, penalties."""

from lightning_tuning.treatments.apply_dropout import ApplyDropout
from lightning_tuning.treatments.convert_batch_norm import ConvertBatchNorm
from lightning_tuning.treatments.decoupled_weight_decay import DecoupledWeightDecay
from lightning_tuning.treatments.dropout_schedule import DropoutSchedule
from lightning_tuning.treatments.export_state import ExportState
from lightning_tuning.treatments.l1_penalty import L1Penalty
from lightning_tuning.treatments.lr_range_test import LRRangeTest
from lightning_tuning.treatments.max_norm import MaxNormConstraint
from lightning_tuning.treatments.momentum_schedule import MomentumSchedule
from lightning_tuning.treatments.plateau_lr import PlateauLR
from lightning_tuning.treatments.recalibrate_batch_norm import RecalibrateBatchNorm
from lightning_tuning.treatments.schedule_lr import ScheduleLR
from lightning_tuning.treatments.weight_init import WeightInitCallback

__all__ = [
    "ApplyDropout",
    "ConvertBatchNorm",
    "DecoupledWeightDecay",
    "DropoutSchedule",
    "ExportState",
    "L1Penalty",
    "LRRangeTest",
    "MaxNormConstraint",
    "MomentumSchedule",
    "PlateauLR",
    "RecalibrateBatchNorm",
    "ScheduleLR",
    "WeightInitCallback",
]
