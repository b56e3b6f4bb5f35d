"""LT301: an active dropout whose output reaches a batch norm on batch statistics."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import BATCH_NORMS, CARRIES_VARIANCE, DROPOUTS, place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT301", "Conflict", "dropout_batchnorm_conflicts", "first_batch_norms"]

LT301 = register(
    Rule(
        code="LT301",
        name="dropout-before-batchnorm",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "Dropout changes the variance of what a batch norm sees between training and evaluation, while the batch "
            "norm's running variance is the training one (DenseNet on CIFAR-100 with p=.5: 77.42 -> 68.55 % accuracy). "
            "Wide layers suffer little, so this is advice until the shift is measured."
        ),
        remedy=(
            "move the dropout behind the last batch norm, or set its p to 0: to try, "
            "`DropoutBNConflictWarning(on_conflict='move')`, or `'disable'`."
        ),
        source="Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization, sections 3-4",
    )
)


@dataclasses.dataclass(frozen=True)
class Conflict:
    """One active dropout and the batch norms that its variance reaches first."""

    dropout: Op
    batch_norms: tuple[Op, ...]

    @property
    def finding(self) -> Finding:
        """The conflict as LT301, naming both ends."""
        p = float(self.dropout.arguments["p"])
        first = self.batch_norms[0]
        more = f" and {len(self.batch_norms) - 1} more" if len(self.batch_norms) > 1 else ""
        return LT301.finding(
            f"dropout (p={p:g}) feeds the batch norm {place(first)}{more} with no normalization between",
            where=self.dropout.module,
            source_line=self.dropout.source_line,
            evidence={
                "p": p,
                "dropout": place(self.dropout),
                "batch_norm": place(first),
                "batch_norm_line": first.source_line or "",
                "batch_norms": len(self.batch_norms),
            },
        )


def dropout_batchnorm_conflicts(graph: Graph) -> list[Conflict]:
    """Every active dropout whose variance reaches a batch norm on batch statistics.

    That is, through elementwise, weight and shape operations only. On the dataflow, not on registration order:
    functional calls and residual branches count; dropout with p = 0 or behind the last batch norm, batch norms in eval
    mode, and anything behind another normalization do not.
    """
    conflicts = []
    for op in graph.ops:
        if _is_active_dropout(op):
            found = first_batch_norms(graph, op)
            if found:
                conflicts.append(Conflict(op, found))
    return conflicts


def _is_active_dropout(op: Op) -> bool:
    return op.name in DROPOUTS and 0 < float(op.arguments.get("p", 0)) < 1 and bool(op.arguments.get("training", False))


def first_batch_norms(graph: Graph, start: Op) -> tuple[Op, ...]:
    """The batch norms on batch statistics that the variance of what ``start`` makes reaches first."""
    found: dict[int, Op] = {}
    seen = {start.index}
    waiting = [start]
    while waiting:
        for child in graph.children(waiting.pop()):
            if child.index in seen:
                continue
            seen.add(child.index)
            if child.name in BATCH_NORMS:
                if child.arguments.get("training", False):
                    found[child.index] = child
            elif child.name in CARRIES_VARIANCE:
                waiting.append(child)
    return tuple(found[index] for index in sorted(found))
