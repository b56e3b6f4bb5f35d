"""Callbacks that look once, or a few times, and change nothing unless told to."""

from lightning_tuning.checks.batch_norm import BatchNormCheck
from lightning_tuning.checks.data import DataCheck
from lightning_tuning.checks.dropout import DropoutCheck
from lightning_tuning.checks.dropout_bn_conflict import DropoutBNConflictWarning
from lightning_tuning.checks.gradient_flow import GradientFlowCheck
from lightning_tuning.checks.init import InitCheck
from lightning_tuning.checks.loss_head import LossHeadCheck
from lightning_tuning.checks.optimizer import OptimizerCheck
from lightning_tuning.checks.preflight import Preflight
from lightning_tuning.checks.run import RunCheck
from lightning_tuning.checks.schedule import ScheduleCheck
from lightning_tuning.checks.target import TargetCheck
from lightning_tuning.checks.train_eval_mode import TrainEvalModeCheck

__all__ = [
    "BatchNormCheck",
    "DataCheck",
    "DropoutBNConflictWarning",
    "DropoutCheck",
    "GradientFlowCheck",
    "InitCheck",
    "LossHeadCheck",
    "OptimizerCheck",
    "Preflight",
    "RunCheck",
    "ScheduleCheck",
    "TargetCheck",
    "TrainEvalModeCheck",
]
