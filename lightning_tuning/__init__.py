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
    from lightning_tuning.findings import (
        CATALOGUE,
        Finding,
        Journal,
        Rule,
        Severity,
        TuningError,
        TuningWarning,
    )
    from lightning_tuning.guards import LossSpikeGuard, NanLossGuard, ReplicaDriftGuard
    from lightning_tuning.measure import Meter, Progress
    from lightning_tuning.mixins import PlateauLRMixin, WeightInitMixin
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
    from lightning_tuning.reporters import TerminalReporter
    from lightning_tuning.suite import TuningSuite
    from lightning_tuning.treatments import PlateauLR, WeightInitCallback

__version__ = "0.1.0"

_HOME = {
    "ActivationMonitor": "monitors",
    "BatchNormCheck": "checks",
    "CATALOGUE": "findings",
    "ClippingMonitor": "monitors",
    "DataCheck": "checks",
    "DropoutBNConflictWarning": "checks",
    "DropoutCheck": "checks",
    "Finding": "findings",
    "GradientExplosionMonitor": "monitors",
    "GradientVanishingMonitor": "monitors",
    "GradientFlowCheck": "checks",
    "InitCheck": "checks",
    "Journal": "findings",
    "LearningCurveMonitor": "monitors",
    "LossHeadCheck": "checks",
    "LossSpikeGuard": "guards",
    "Meter": "measure",
    "NanLossGuard": "guards",
    "OptimizerCheck": "checks",
    "PenaltyMonitor": "monitors",
    "OverfittingMonitor": "monitors",
    "PlateauLR": "treatments",
    "PlateauLRMixin": "mixins",
    "Preflight": "checks",
    "Progress": "measure",
    "RateMonitor": "monitors",
    "ReplicaDriftGuard": "guards",
    "Rule": "findings",
    "RunCheck": "checks",
    "ScheduleCheck": "checks",
    "Severity": "findings",
    "StabilityProbe": "monitors",
    "StaleGradientMonitor": "monitors",
    "TargetCheck": "checks",
    "TerminalReporter": "reporters",
    "TrainEvalModeCheck": "checks",
    "TuningError": "findings",
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
    "BatchNormCheck",
    "ClippingMonitor",
    "DataCheck",
    "DropoutBNConflictWarning",
    "DropoutCheck",
    "Finding",
    "GradientExplosionMonitor",
    "GradientFlowCheck",
    "GradientVanishingMonitor",
    "InitCheck",
    "Journal",
    "LearningCurveMonitor",
    "LossHeadCheck",
    "LossSpikeGuard",
    "Meter",
    "NanLossGuard",
    "OptimizerCheck",
    "OverfittingMonitor",
    "PenaltyMonitor",
    "PlateauLR",
    "PlateauLRMixin",
    "Preflight",
    "Progress",
    "RateMonitor",
    "ReplicaDriftGuard",
    "Rule",
    "RunCheck",
    "ScheduleCheck",
    "Severity",
    "StabilityProbe",
    "StaleGradientMonitor",
    "TargetCheck",
    "TerminalReporter",
    "TrainEvalModeCheck",
    "TuningError",
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
