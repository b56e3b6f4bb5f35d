"""Symptoms that one look shows and that never fade, told of when the run is seen to suffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from lightning_tuning.findings import PERSISTENCE, Finding
from lightning_tuning.runtime import Desk, TuningCallback

__all__ = ["lasting", "tell_if_it_harms"]


def lasting(finding: Finding) -> Finding:
    """``finding`` with the weight of as many looks as make a symptom persistent: what it saw stays as it is."""
    return dataclasses.replace(finding, count=PERSISTENCE)


def tell_if_it_harms(callback: TuningCallback, trainer: Trainer, findings: Sequence[Finding]) -> None:
    """Have ``callback`` report the findings once the run is flat or diverges; never, if it converges.

    The gate forgives what was reported before a run learned; these are facts about data, and may well be why it has
    stopped.
    """
    if not findings:
        return
    desk = Desk.of(trainer)
    desk.watch_loss()

    def at_batch_end(trainer: Trainer, *_: Any) -> bool:
        state = desk.progress.state
        if state in ("flat", "diverging"):
            for finding in findings:
                callback.report(trainer, finding)
        return state in ("flat", "diverging", "converged")

    desk.watch("train_batch_end", at_batch_end)
