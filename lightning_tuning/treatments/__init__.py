"""Callbacks that train differently from the start: initialization, schedules, penalties."""

from lightning_tuning.treatments.decoupled_weight_decay import DecoupledWeightDecay
from lightning_tuning.treatments.l1_penalty import L1Penalty
from lightning_tuning.treatments.max_norm import MaxNormConstraint
from lightning_tuning.treatments.plateau_lr import PlateauLR
from lightning_tuning.treatments.weight_init import WeightInitCallback

__all__ = ["DecoupledWeightDecay", "L1Penalty", "MaxNormConstraint", "PlateauLR", "WeightInitCallback"]
