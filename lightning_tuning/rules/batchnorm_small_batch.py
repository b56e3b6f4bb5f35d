"""LT307: a batch norm that estimates its statistics from a handful of samples, or from a single one."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.findings.gate import PERSISTENCE
from lightning_tuning.rules._norms import BatchNorm, batch_norms, more
from lightning_tuning.rules._ops import place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT307", "last_batch_of_one", "small_batch"]

LT307 = register(
    Rule(
        code="LT307",
        name="batchnorm-small-batch",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "The noise of the batch's mean and variance grows as the batch shrinks, and evaluation uses other ones "
            "(ImageNet, ResNet-50: 23.6 % error with 32 samples per device, 34.7 % with 2; GroupNorm 24.1 % with "
            "both). Gradient accumulation does not help: each batch is normalized by itself."
        ),
        remedy=(
            "`nn.GroupNorm(32, channels)`, a larger batch per device, or with several devices "
            "`Trainer(sync_batchnorm=True)`"
        ),
        source="Wu and He 2018, Group Normalization, table 2 and figure 1",
    )
)

_FEW, _TOO_FEW, _HARDLY_ANY = 15, 8, 4


def small_batch(graph: Graph, *, replicas: int = 1, accumulation: int = 1) -> Finding | None:
    """LT307 if batch norms that train and track see fewer than 16 samples at once; a warning from 8 down.

    Samples are counted along the first dimension, whatever the size of the maps. Quiet where a batch norm sees a part
    of the batch only (ghost batch norm).

    Args:
        graph: of the step.
        replicas: ranks over which a synchronized batch norm takes its statistics.
        accumulation: batches in an update, for the message.
    """
    leading = {value.shape[0] for value in graph.values if value.kind == "batch" and value.shape}
    seen: list[tuple[int, BatchNorm]] = []
    for norm in graph.answer(batch_norms):
        samples = norm.input.shape[0] if norm.input.shape else 0
        is_part = bool(leading) and samples not in leading and samples < max(leading)
        is_renorm = norm.op.module_type.startswith("BatchRenorm")  # made for small batches
        if norm.is_training and norm.is_tracking and samples and not is_part and not is_renorm:
            seen.append((samples * (replicas if norm.is_synchronized else 1), norm))
    found = [(samples, norm) for samples, norm in seen if samples <= _FEW]
    if not found:
        return None
    samples, norm = min(found, key=lambda pair: pair[0])
    severity = Severity.WARNING if samples <= _TOO_FEW else Severity.INFO
    how = ", which is hardly a statistic" if samples <= _HARDLY_ANY else ""
    accumulated = f"; accumulating {accumulation} batches does not change that" if accumulation > 1 else ""
    finding = LT307.finding(
        f"{place(norm.op)}{more(len({norm.identity for _, norm in found}))} normalize{'s' if len(found) == 1 else ''} "
        f"over {samples} sample{'s' if samples > 1 else ''} < 16{how}{accumulated}",
        where=norm.op.module,
        source_line=norm.op.source_line,
        severity=severity,
        evidence={"samples": samples, "threshold": 16 if severity is Severity.INFO else 9, "calls": len(found)},
    )
    return dataclasses.replace(finding, count=PERSISTENCE)  # a batch size does not come and go


def last_batch_of_one(graph: Graph, *, samples: int, batch_size: int, where: str) -> Finding | None:
    """LT307 as an error if the last batch of an epoch has one sample and a batch norm needs two values a channel.

    Args:
        graph: of a step with a whole batch.
        samples: in an epoch of this rank; the last, smaller batch is not dropped.
        batch_size: of the loader.
        where: the loader, for the message.
    """
    if batch_size < 2 or samples % batch_size != 1:
        return None
    fails = [
        norm
        for norm in graph.answer(batch_norms)
        if norm.is_training
        and not norm.is_synchronized
        and norm.input.shape[:1] == (batch_size,)
        and math.prod(norm.input.shape[2:]) == 1
    ]
    if not fails:
        return None
    first = fails[0].op
    return LT307.finding(
        f"{samples} samples in batches of {batch_size} leave a last batch of 1, for which the batch norm "
        f"{place(first)}{more(len(fails))} will raise: it has a single value per channel",
        where=where,
        source_line=first.source_line,
        severity=Severity.ERROR,
        evidence={"samples": samples, "batch_size": batch_size, "last_batch": 1, "batch_norm": place(first)},
        remedy="`DataLoader(..., drop_last=True)`.",
    )
