"""What two ranks saw of the same finding, as one."""

from __future__ import annotations

import dataclasses

from lightning_tuning.findings.finding import Finding

__all__ = ["both"]


def both(known: Finding, other: Finding) -> Finding:
    """``known`` with what another rank saw of it."""
    return dataclasses.replace(
        known,
        count=known.count + other.count,
        severity=max(known.severity, other.severity),
        step=min((f.step for f in (known, other) if f.step is not None), default=None),
        last_step=max((f.last_step for f in (known, other) if f.last_step is not None), default=None),
    )
