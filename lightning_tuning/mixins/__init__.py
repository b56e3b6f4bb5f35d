"""What only a LightningModule can do, or what some prefer to have in it."""

from lightning_tuning.mixins.plateau_lr import PlateauLRMixin
from lightning_tuning.mixins.weight_init import WeightInitMixin

__all__ = ["PlateauLRMixin", "WeightInitMixin"]
