"""LT105: a prediction (B, 1) meets a target (B,), and every sample is compared with every other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import SAME_ELEMENTS, ancestors
from lightning_tuning.rules._ops import ELEMENTWISE_OPS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op, Value

__all__ = ["LT105", "broadcast_targets"]

LT105 = register(
    Rule(
        code="LT105",
        name="target-shape-broadcast",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "Broadcasting makes (B, B) of them: each prediction is compared with the targets of all samples, and the "
            "best that a net can do is to answer their mean, whatever the input. Nothing raises, the loss falls."
        ),
        remedy="give both one shape: `prediction.squeeze(1)`, or `target.unsqueeze(1)`.",
        source="Humbatova et al. 2020 and Zhang et al. 2018, field studies of deep learning bugs",
    )
)

_LOSSES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_REDUCTIONS = frozenset({"mean", "sum", "nanmean", "nansum"})
_FOLLOWED = (ELEMENTWISE_OPS | SAME_ELEMENTS | {"nan_to_num"}) - {"where"}


def broadcast_targets(graph: Graph) -> list[Finding]:
    """LT105 for each loss that broadcasts a prediction against its target.

    Quiet: both sides from the model (similarities, triplets, distances), a side from neither the model nor the batch
    (a constant against which all are compared alike), and where the axis was added on purpose and the differences are
    not simply averaged.
    """
    found = []
    for op in graph.find(*_LOSSES, "sub", feeding=True):
        sides = _sides(graph, op)
        if sides is None:
            continue
        prediction, target = sides
        tall = prediction if len(prediction.shape) == 2 else target
        is_function = op.name in _LOSSES
        reduced = is_function and op.arguments.get("reduction", "mean") != "none"
        if not reduced and (_is_deliberate(graph, tall) or not _is_averaged(graph, op)):
            continue
        samples = tall.shape[0]
        name = _name(graph, target)
        found.append(
            LT105.finding(
                f"{op.name} of the prediction {prediction.shape} and the target {name}{target.shape} is a comparison "
                f"of each with each, ({samples}, {samples})",
                where=op.module,
                source_line=op.source_line,
                remedy=None
                if tall is prediction
                else "give both one shape: `target.squeeze(1)`, or `prediction.unsqueeze(1)`.",
                evidence={
                    "prediction": str(prediction.shape),
                    "target": str(target.shape),
                    "elements": samples * samples,
                    "samples": samples,
                },
            )
        )
    return found


def _sides(graph: Graph, op: Op) -> tuple[Value, Value] | None:
    """Prediction and target, if they are of the shapes in question and of different origin."""
    if len(op.inputs) < 2:
        return None
    first, second = graph.values[op.inputs[0]], graph.values[op.inputs[1]]
    tall, flat = (first, second) if len(first.shape) == 2 else (second, first)
    if len(flat.shape) != 1 or flat.shape[0] < 2 or tall.shape != (flat.shape[0], 1):
        return None
    origins = [_origin(graph, side) for side in (first, second)]
    if origins == ["model", "batch"]:
        return first, second
    return (second, first) if origins == ["batch", "model"] else None


def _origin(graph: Graph, value: Value) -> str:
    kinds = {graph.values[index].kind for index in ancestors(graph, {value.index})}
    if "parameter" in kinds:
        return "model"
    return "batch" if "batch" in kinds else "neither"


def _name(graph: Graph, target: Value) -> str:
    kinds = (graph.values[index] for index in sorted(ancestors(graph, {target.index})))
    return next((f"{value.name} " for value in kinds if value.kind == "batch" and value.name), "")


def _is_deliberate(graph: Graph, tall: Value) -> bool:
    """The axis was added by an ``unsqueeze`` or ``[:, None]``."""
    value = tall
    while value.producer is not None:
        maker = graph.ops[value.producer]
        if maker.name == "unsqueeze" or (maker.name == "getitem" and "None" in str(maker.arguments.get("index"))):
            return True
        if maker.name not in SAME_ELEMENTS or not maker.inputs:
            return False
        value = graph.values[maker.inputs[0]]
    return False


def _is_averaged(graph: Graph, op: Op) -> bool:
    """All that is done with the differences is elementwise, and then all of them go into one number."""
    waiting, seen = [op], {op.index}
    met = False
    while waiting:
        for child in graph.children(waiting.pop()):
            if child.index in seen or not graph.reaches_loss(child):
                continue
            seen.add(child.index)
            if child.name in _REDUCTIONS and graph.values[child.outputs[0]].shape == ():
                met = True
            elif child.name in _FOLLOWED:
                waiting.append(child)
            else:
                return False
    return met
