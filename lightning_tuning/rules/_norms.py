"""The batch norms of a step: what each was fed, what it keeps, whether it normalizes by the batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import BATCH_NORMS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op, Value

__all__ = ["BatchNorm", "advanced_counters", "batch_norms", "counter_of", "more", "read_counters"]

_SYNCHRONIZED = frozenset({"sync_batch_norm", "SyncBatchNorm"})
"""The second is its autograd function, where there is more than one rank."""


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """One call of a batch norm.

    Attributes:
        op: the operation.
        input: what it normalizes.
        statistics: the running ones, where they are buffers: mean, variance.
        affine: scale and shift, where they are parameters.
        is_training: normalizes by the batch's own statistics.
        is_tracking: keeps running ones meanwhile.
        is_synchronized: takes the batches of all ranks as one.
    """

    op: Op
    input: Value
    statistics: tuple[Value, ...]
    affine: tuple[Value, ...]
    is_training: bool
    is_tracking: bool
    is_synchronized: bool

    @property
    def identity(self) -> str:
        """The same for all calls of one batch norm, functional or not; empty where nothing tells."""
        return next((value.name for value in (*self.statistics, *self.affine) if value.name), "")


def batch_norms(graph: Graph) -> list[BatchNorm]:
    """Every call of a batch norm, in order; ask by ``graph.answer(batch_norms)``."""
    return [_of(graph, op) for op in graph.ops if op.name in BATCH_NORMS | _SYNCHRONIZED and op.inputs]


def counter_of(norm: BatchNorm) -> str:
    """The name of the buffer in which torch's batch norms count their batches."""
    return f"{norm.identity.rpartition('.')[0]}.num_batches_tracked"


def advanced_counters(graph: Graph) -> set[str]:
    """Names of the buffers that the step adds to; ask by ``graph.answer(advanced_counters)``."""
    return _buffers_of(graph, [op for op in graph.ops if op.name == "add" and op.inplace])


def read_counters(graph: Graph) -> set[str]:
    """Names of the buffers whose value the step reads; ask by ``graph.answer(read_counters)``."""
    return _buffers_of(graph, [op for op in graph.ops if op.name == "item"])


def _buffers_of(graph: Graph, ops: list[Op]) -> set[str]:
    values = (graph.values[op.inputs[0]] for op in ops if op.inputs)
    return {value.name for value in values if value.kind == "buffer" and value.name}


def more(items: int) -> str:
    """``" and 3 more"`` for four items, to follow the name of the first."""
    return f" and {items - 1} more" if items > 1 else ""


def _of(graph: Graph, op: Op) -> BatchNorm:
    values = [graph.values[index] for index in op.inputs]
    statistics = tuple(value for value in values[1:] if value.kind == "buffer")
    opaque = bool(op.arguments.get("opaque"))  # the function of several ranks, which runs in training mode alone
    return BatchNorm(
        op=op,
        input=values[0],
        statistics=statistics,
        affine=tuple(value for value in values[1:] if value.kind == "parameter"),
        is_training=opaque or bool(op.arguments.get("training")),
        is_tracking=bool(statistics) and bool(op.arguments.get("track_running_stats", True)),
        is_synchronized=op.name in _SYNCHRONIZED,
    )
