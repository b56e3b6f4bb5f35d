"""What only a LightningModule can do, or what some prefer to have in it."""

from lightning_tuning.mixins.param_groups import ParamGroupsMixin
from lightning_tuning.mixins.plateau_lr import PlateauLRMixin
from lightning_tuning.mixins.schedule_lr import ScheduleLRMixin
from lightning_tuning.mixins.weight_init import WeightInitMixin

__all__ = [
    "ParamGroupsMixin",
    "PlateauLRMixin",
    "ScheduleLRMixin",
    "WeightInitMixin",
]
