"""The recommended set: which callbacks, with which arguments."""

from __future__ import annotations

from typing import Any

from lightning_tuning.checks import (
    BatchNormCheck,
    DataCheck,
    DropoutBNConflictWarning,
    DropoutCheck,
    GradientFlowCheck,
    InitCheck,
    LossHeadCheck,
    OptimizerCheck,
    RunCheck,
    ScheduleCheck,
    TargetCheck,
    TrainEvalModeCheck,
)
from lightning_tuning.findings.run_order import RunOrder
from lightning_tuning.findings.settings import Settings
from lightning_tuning.guards import NanLossGuard, ReplicaDriftGuard
from lightning_tuning.monitors import (
    ActivationMonitor,
    ClippingMonitor,
    GradientExplosionMonitor,
    GradientVanishingMonitor,
    LearningCurveMonitor,
    OverfittingMonitor,
    PenaltyMonitor,
    RateMonitor,
    StaleGradientMonitor,
    UpdateMonitor,
    VarianceShiftMonitor,
)
from lightning_tuning.recording import TuningReport
from lightning_tuning.recording.ordered import ordered_report
from lightning_tuning.runtime import TuningCallback
from lightning_tuning.runtime.options import make_with_options

__all__ = ["RECOMMENDED", "members_of"]

RECOMMENDED: tuple[tuple[type[TuningCallback], dict[str, Any]], ...] = (
    (DataCheck, {}),
    (TargetCheck, {}),
    (InitCheck, {}),
    (DropoutBNConflictWarning, {"severity": "info"}),
    (DropoutCheck, {}),
    (BatchNormCheck, {}),
    (LossHeadCheck, {}),
    (GradientFlowCheck, {}),
    (TrainEvalModeCheck, {}),
    (OptimizerCheck, {}),
    (ScheduleCheck, {}),
    (RunCheck, {}),
    (GradientExplosionMonitor, {}),
    (RateMonitor, {}),
    (PenaltyMonitor, {}),
    (GradientVanishingMonitor, {}),
    (UpdateMonitor, {}),
    (ClippingMonitor, {}),
    (ActivationMonitor, {}),
    (StaleGradientMonitor, {}),
    (LearningCurveMonitor, {}),
    (OverfittingMonitor, {}),
    (VarianceShiftMonitor, {}),
    (NanLossGuard, {}),
    (ReplicaDriftGuard, {}),
)
"""The recommended set with its arguments, in the order in which it is called."""

_CHECKS = "lightning_tuning.checks."


def members_of(settings: Settings) -> list[TuningCallback]:
    """The recommended set as ``settings`` want it.

    Raises:
        ValueError: for options and thresholds that no member takes, and a ``report`` that is no file's path.
    """
    members = make_with_options(RECOMMENDED, settings.options, settings.thresholds)
    if settings.checks_only:
        members = [member for member in members if type(member).__module__.startswith(_CHECKS)]
    return members if not settings.report else [*members, _report(settings.report)]


def _report(path: str) -> TuningReport:
    order = RunOrder.here()
    if order is not None and path == order.report:
        return ordered_report(order)
    try:
        return TuningReport(path)
    except ValueError as error:
        raise ValueError(f"`report`: {error}") from error
