"""What only a LightningModule can do, or what some prefer to have in it."""

from lightning_tuning.mixins.param_groups import ParamGroupsMixin
from lightning_tuning.mixins.plateau_lr import PlateauLRMixin

__all__ = ["ParamGroupsMixin", "PlateauLRMixin"]
