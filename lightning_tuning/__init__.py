"""A linter and a first-aid kit for PyTorch Lightning training runs.

Everything public is importable from here and loaded on first use, so that the command line does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_tuning.checks import (
        BatchNormCheck,
        DataCheck,
        DropoutBNConflictWarning,
        DropoutCheck,
        GradientFlowCheck,
        InitCheck,
        LossHeadCheck,
        OptimizerCheck,
        Preflight,
        RunCheck,
        ScheduleCheck,
        TargetCheck,
        TrainEvalModeCheck,
    )
    from lightning_tuning.findings import CATALOGUE, Finding, Journal, Rule, Severity, TuningError, TuningWarning
    from lightning_tuning.guards import AdaptiveClipGuard, FreezeGuard, LossSpikeGuard, NanLossGuard, ReplicaDriftGuard
    from lightning_tuning.measure import Meter, Progress
    from lightning_tuning.mixins import ParamGroupsMixin, PlateauLRMixin, ScheduleLRMixin, WeightInitMixin
    from lightning_tuning.monitors import (
        ActivationMonitor,
        ClippingMonitor,
        GradientExplosionMonitor,
        GradientVanishingMonitor,
        LearningCurveMonitor,
        OverfittingMonitor,
        PenaltyMonitor,
        RateMonitor,
        StabilityProbe,
        StaleGradientMonitor,
        UpdateMonitor,
        VarianceShiftMonitor,
    )
    from lightning_tuning.recording import TuningReport
    from lightning_tuning.reporters import TerminalReporter
    from lightning_tuning.runtime import LoggerReporter
    from lightning_tuning.suite import TuningSuite
    from lightning_tuning.treatments import (
        ApplyDropout,
        ConvertBatchNorm,
        DecoupledWeightDecay,
        DropoutSchedule,
        ExportState,
        L1Penalty,
        LRRangeTest,
        MaxNormConstraint,
        MomentumSchedule,
        PlateauLR,
        RecalibrateBatchNorm,
        ScheduleLR,
        WeightInitCallback,
    )

__version__ = "0.1.0"

_HOME = {
    "ActivationMonitor": "monitors",
    "AdaptiveClipGuard": "guards",
    "ApplyDropout": "treatments",
    "BatchNormCheck": "checks",
    "CATALOGUE": "findings",
    "ClippingMonitor": "monitors",
    "ConvertBatchNorm": "treatments",
    "DataCheck": "checks",
    "DecoupledWeightDecay": "treatments",
    "DropoutBNConflictWarning": "checks",
    "DropoutCheck": "checks",
    "DropoutSchedule": "treatments",
    "ExportState": "treatments",
    "Finding": "findings",
    "FreezeGuard": "guards",
    "GradientExplosionMonitor": "monitors",
    "GradientFlowCheck": "checks",
    "GradientVanishingMonitor": "monitors",
    "InitCheck": "checks",
    "Journal": "findings",
    "L1Penalty": "treatments",
    "LRRangeTest": "treatments",
    "LearningCurveMonitor": "monitors",
    "LoggerReporter": "runtime",
    "LossHeadCheck": "checks",
    "LossSpikeGuard": "guards",
    "MaxNormConstraint": "treatments",
    "Meter": "measure",
    "MomentumSchedule": "treatments",
    "NanLossGuard": "guards",
    "OptimizerCheck": "checks",
    "OverfittingMonitor": "monitors",
    "ParamGroupsMixin": "mixins",
    "PenaltyMonitor": "monitors",
    "PlateauLR": "treatments",
    "PlateauLRMixin": "mixins",
    "Preflight": "checks",
    "Progress": "measure",
    "RateMonitor": "monitors",
    "RecalibrateBatchNorm": "treatments",
    "ReplicaDriftGuard": "guards",
    "Rule": "findings",
    "RunCheck": "checks",
    "ScheduleCheck": "checks",
    "ScheduleLR": "treatments",
    "ScheduleLRMixin": "mixins",
    "Severity": "findings",
    "StabilityProbe": "monitors",
    "StaleGradientMonitor": "monitors",
    "TargetCheck": "checks",
    "TerminalReporter": "reporters",
    "TrainEvalModeCheck": "checks",
    "TuningError": "findings",
    "TuningReport": "recording",
    "TuningSuite": "suite",
    "TuningWarning": "findings",
    "UpdateMonitor": "monitors",
    "VarianceShiftMonitor": "monitors",
    "WeightInitCallback": "treatments",
    "WeightInitMixin": "mixins",
}

__all__ = [
    "CATALOGUE",
    "ActivationMonitor",
    "AdaptiveClipGuard",
    "ApplyDropout",
    "BatchNormCheck",
    "ClippingMonitor",
    "ConvertBatchNorm",
    "DataCheck",
    "DecoupledWeightDecay",
    "DropoutBNConflictWarning",
    "DropoutCheck",
    "DropoutSchedule",
    "ExportState",
    "Finding",
    "FreezeGuard",
    "GradientExplosionMonitor",
    "GradientFlowCheck",
    "GradientVanishingMonitor",
    "InitCheck",
    "Journal",
    "L1Penalty",
    "LRRangeTest",
    "LearningCurveMonitor",
    "LoggerReporter",
    "LossHeadCheck",
    "LossSpikeGuard",
    "MaxNormConstraint",
    "Meter",
    "MomentumSchedule",
    "NanLossGuard",
    "OptimizerCheck",
    "OverfittingMonitor",
    "ParamGroupsMixin",
    "PenaltyMonitor",
    "PlateauLR",
    "PlateauLRMixin",
    "Preflight",
    "Progress",
    "RateMonitor",
    "RecalibrateBatchNorm",
    "ReplicaDriftGuard",
    "Rule",
    "RunCheck",
    "ScheduleCheck",
    "ScheduleLR",
    "ScheduleLRMixin",
    "Severity",
    "StabilityProbe",
    "StaleGradientMonitor",
    "TargetCheck",
    "TerminalReporter",
    "TrainEvalModeCheck",
    "TuningError",
    "TuningReport",
    "TuningSuite",
    "TuningWarning",
    "UpdateMonitor",
    "VarianceShiftMonitor",
    "WeightInitCallback",
    "WeightInitMixin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
