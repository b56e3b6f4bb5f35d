"""Discovery finds what is public, and the suite leaves no check and no monitor out."""

from __future__ import annotations

import inspect

import lightning_tuning
from lightning_tuning.checks import Preflight
from lightning_tuning.guards import NanLossGuard, ReplicaDriftGuard
from lightning_tuning.monitors import StabilityProbe
from lightning_tuning.recording import TuningReport
from lightning_tuning.runtime import TuningCallback
from lightning_tuning.suite import RECOMMENDED
from tests.contracts.discovery import CALLBACKS, OBSERVERS


def test_discovery_finds_the_public_ones() -> None:
    public = {name for name in lightning_tuning.__all__ if inspect.isclass(getattr(lightning_tuning, name))}
    assert set(CALLBACKS) == {n for n in public if issubclass(getattr(lightning_tuning, n), TuningCallback)}
    assert {"DropoutBNConflictWarning", "GradientExplosionMonitor"} <= set(OBSERVERS)


def test_the_suite_holds_every_check_and_monitor_and_the_guards() -> None:
    """All but Preflight and StabilityProbe, which cost many steps each time they look, and what writes files."""
    kinds = [kind for kind, _ in RECOMMENDED]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == {*OBSERVERS.values(), NanLossGuard, ReplicaDriftGuard} - {
        Preflight,
        StabilityProbe,
        TuningReport,
    }
