"""What the ranks of a run do together: gather findings, and raise on all of them or on none."""

from __future__ import annotations

import torch.distributed as dist
from lightning.pytorch import Trainer

from lightning_tuning.findings import Finding, TuningError

__all__ = ["gather_findings", "raise_together"]


def gather_findings(own: list[Finding]) -> list[Finding]:
    """The findings of all ranks, in the order of ranks; every rank must call it."""
    everybody: list[list[Finding]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everybody, own)
    return [finding for findings in everybody for finding in findings]


def raise_together(trainer: Trainer, pending: Finding | None) -> None:
    """Raise on every rank if one of them has a finding to raise; every rank must call it.

    One all-reduce of a boolean (about 1-2 ms on gloo), paid only with ``on_finding="raise"`` on several ranks: a rank
    that raised alone would leave the others waiting in their next collective.

    Raises:
        TuningError: with the own finding, or else the first one of another rank.
    """
    if not trainer.strategy.reduce_boolean_decision(pending is not None, all=False):
        return
    found = gather_findings([] if pending is None else [pending])
    finding = pending or found[0]
    raise TuningError(finding.text(), finding)
