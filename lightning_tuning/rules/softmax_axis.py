"""LT317: class probabilities that are normalized over the wrong axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._head import PICKS, comes_from_weights
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT317", "misplaced_softmaxes"]

LT317 = register(
    Rule(
        code="LT317",
        name="softmax-axis",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A softmax over one element is 1 whatever the net says, so nothing is learned; over the batch it makes the "
            "samples compete with each other, and a prediction depends on who else is in the batch."
        ),
        remedy=(
            "take it over the classes: `F.log_softmax(logits, dim=1)`, or `F.cross_entropy(logits, y)` without one; of "
            "one output per sample take `F.binary_cross_entropy_with_logits(logits, y)`."
        ),
        source="Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems; Islam et al. 2019",
    )
)

_SOFTMAXES = frozenset({"softmax", "log_softmax"})
_SAME_SHAPE = frozenset(
    {"log", "clamp", "clamp_min", "clamp_max", "add", "mul", "div", "clone", "contiguous", "float", "to", "identity"}
)


def misplaced_softmaxes(graph: Graph) -> list[Finding]:
    """LT317 for each softmax whose output a loss takes for class probabilities, over one element or over the batch.

    Only scores that a weight layer gives are class scores: similarities within the batch (contrastive losses),
    attention over one key and a router with one expert are none.
    """
    found = {}
    for term in graph.answer(loss_terms):
        op, is_as_it_was = _softmax_of(graph, term)
        if op is None or comes_from_weights(graph, op.inputs[0]) is None:
            continue
        axis, shape = _axis(graph, op), graph.values[op.inputs[0]].shape
        if not shape:
            continue
        if shape[axis] == 1 and shape[0] > 1:
            message = f"softmax over axis {axis} of {shape}, which is a single element: every probability is 1"
        elif axis == 0 and shape[0] > 1 and is_as_it_was and _is_batch_axis(graph, term, shape):
            message = f"softmax over axis 0 of {shape}, which is the batch: the samples compete, not the classes"
        else:
            continue
        found[op.index] = LT317.finding(
            f"{message} ({term.op.name if term.op is not op else term.kind})",
            where=op.module,
            source_line=op.source_line,
            evidence={"axis": axis, "size": shape[axis], "shape": str(shape), "operation": op.name},
        )
    return list(found.values())


def _softmax_of(graph: Graph, term: LossTerm) -> tuple[Op | None, bool]:
    """The softmax that gives ``term`` its probabilities, and whether its axes are still those that the loss sees."""
    if term.kind == "other":
        return None, False
    if term.kind == "cross_entropy":
        return term.op, True
    way = way_back(graph, term.prediction, _SAME_SHAPE | VIEW_OPS | PICKS)
    if not way or way[-1].name not in _SOFTMAXES:
        return None, False
    return way[-1], all(op.name in _SAME_SHAPE for op in way[:-1])


def _axis(graph: Graph, op: Op) -> int:
    rank = len(graph.values[op.inputs[0]].shape)
    if op.name not in _SOFTMAXES:  # cross_entropy
        return min(1, rank - 1)
    dim = op.arguments.get("dim")
    if not isinstance(dim, int):
        return 0 if rank in (0, 1, 3) else 1  # as torch chooses it
    return dim % max(rank, 1)


def _is_batch_axis(graph: Graph, term: LossTerm, shape: tuple[int, ...]) -> bool:
    """Axis 0 counts the samples: of the batch, of the target, and it is not the classes' (a square of similarities)."""
    if term.target is None or term.op.name in ("cross_entropy", "cross_entropy_loss"):
        return False
    target = graph.values[term.target].shape
    sizes = {value.shape[0] for value in graph.values if value.kind == "batch" and value.shape}
    if sizes != {shape[0]} or target[:1] != shape[:1]:
        return False
    if len(shape) == 1:
        return term.kind == "bce"
    return term.kind in ("nll", "bce", "cross_entropy") and shape[0] != shape[1]
