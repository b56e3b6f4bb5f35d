"""LT308: one batch norm for all the steps of a recurrence, or over padded sequences."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import BatchNorm, batch_norms, more
from lightning_tuning.rules._ops import ACTIVATIONS, DROPOUTS, RESHAPES, WEIGHT_OPS, place
from lightning_tuning.rules._reach import from_batch

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT308", "padded_batch_norms", "recurrent_batch_norms"]

LT308 = register(
    Rule(
        code="LT308",
        name="batchnorm-in-recurrence",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "The statistics of a hidden state change from step to step, but one batch norm keeps one running mean for "
            "all of them, which in evaluation is right for none; padding counts as data in both."
        ),
        remedy="`nn.LayerNorm(hidden)`, which needs no batch; or a batch norm for each step.",
        source="Cooijmans et al. 2017, Recurrent Batch Normalization, section 3; Ba et al. 2016, Layer Normalization",
    )
)

_CALLS = 4
_LOOKED_AT = 8
"""Batch norms of one net that are followed through the graph; more of them would tell the same."""


def recurrent_batch_norms(graph: Graph) -> Finding | None:
    """LT308 if one batch norm is called four times or more, each time on what came of the time before.

    Quiet for calls that do not feed each other: heads shared between the levels of a pyramid, siamese nets, frames of a
    video, ghost batches; and for dependence by way of weights alone (an inner loop of meta-learning).
    """
    calls: dict[str, list[BatchNorm]] = {}
    for norm in graph.answer(batch_norms):
        if norm.identity and norm.is_training and norm.is_tracking:
            calls.setdefault(norm.identity, []).append(norm)
    often = [again for again in calls.values() if len(again) >= _CALLS]
    found = [again for again in often[:_LOOKED_AT] if _longest_chain(graph, again) >= _CALLS]
    if not found:
        return None
    first = found[0][0].op
    return LT308.finding(
        f"{place(first)}{more(len(found))} called {len(found[0])} times in one step, each on what came of the last",
        where=first.module,
        source_line=first.source_line,
        evidence={"calls": len(found[0]), "threshold": _CALLS, "batch_norms": len(found)},
    )


def padded_batch_norms(graph: Graph, padded: Collection[int]) -> Finding | None:
    """LT308 for a batch norm over all positions of sequences that were unpacked to different lengths.

    Args:
        graph: of the step.
        padded: indices of the ``pad_packed_sequence`` operations whose sequences differ in length.
    """
    through = RESHAPES | ACTIVATIONS | DROPOUTS | WEIGHT_OPS | {"index_select"}
    for index in sorted(padded):
        below = graph.downstream(index, through=lambda op: op.name in through)
        for norm in graph.answer(batch_norms):
            if norm.op.index in below and norm.is_training:
                return LT308.finding(
                    f"{place(norm.op)} is fed sequences of different lengths, their padding included",
                    where=norm.op.module,
                    source_line=norm.op.source_line,
                    evidence={"unpacked_at": place(graph.ops[index]), "shape": str(list(norm.input.shape))},
                    remedy="normalize before `pad_packed_sequence` (its `.data` has no padding), or `nn.LayerNorm`.",
                )
    return None


def _longest_chain(graph: Graph, calls: list[BatchNorm]) -> int:
    """How many of the calls lie on one path of the data."""
    varies = graph.answer(from_batch)
    own = {norm.op.index for norm in calls}
    depth: dict[int, int] = {}  # by value
    longest = 0
    for op in graph.ops[calls[0].op.index : calls[-1].op.index + 1]:
        data = op.inputs[:1] if op.name in WEIGHT_OPS or op.index in own else op.inputs  # not by way of weights
        deepest = max((depth.get(value, 0) for value in data if value in varies), default=0)
        if op.index in own:
            deepest += 1
            longest = max(longest, deepest)
        if deepest:
            depth.update(dict.fromkeys(op.outputs, deepest))
    return longest
