"""LT322: a frozen batch norm whose statistics move on."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import BatchNorm, batch_norms, more
from lightning_tuning.rules._ops import attribute, place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Value

__all__ = ["LT322", "drifting_batch_norms"]

LT322 = register(
    Rule(
        code="LT322",
        name="drifting-frozen-batchnorm",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "`requires_grad_(False)` does not stop the running statistics: in training mode the layer normalizes by "
            "the new data's batches and forgets the statistics that the frozen weights were trained with."
        ),
        remedy="`self.backbone.eval()` in `on_train_epoch_start`, beside `requires_grad_(False)`.",
        source="torch.nn.BatchNorm2d, track_running_stats; Lightning >= 2.2 keeps the modes that it finds",
    )
)


def drifting_batch_norms(graph: Graph, *, toggled: Collection[str] = ()) -> Finding | None:
    """LT322 if batch norms have scale and shift frozen, but train and track.

    Quiet for batch norms without scale and shift, and for frozen twins of trained ones (teachers, target networks,
    momentum encoders), whose statistics are meant to follow.

    Args:
        graph: of the step.
        toggled: names of parameters that are trained at other times of the run.
    """
    norms = graph.answer(batch_norms)
    trained = [value for norm in norms for value in norm.affine if value.requires_grad and value.name]
    names = {*toggled, *(value.name for value in trained)}
    found = [
        norm
        for norm in norms
        if norm.is_training
        and norm.is_tracking
        and norm.affine
        and not any(value.requires_grad or value.name in names for value in norm.affine)
        and not _has_trained_twin(norm, trained)
    ]
    if not found:
        return None
    op = found[0].op
    count = len({norm.identity for norm in found})
    return LT322.finding(
        f"{place(op)}{more(count)}: scale and shift are frozen, running mean and variance still move",
        where=op.module,
        source_line=op.source_line,
        evidence={"batch_norms": count, "momentum": float(op.arguments.get("momentum") or 0.0)},
        remedy=f"`{attribute(op.module)}.eval()`, or that of the whole frozen part, in `on_train_epoch_start`.",
    )


def _has_trained_twin(norm: BatchNorm, trained: list[Value]) -> bool:
    """Whether the same layer of another copy of the net is trained: ``teacher.bn1`` beside ``student.bn1``."""
    own = norm.affine[0]
    return any(other.shape == own.shape and _are_copies(str(own.name), str(other.name)) for other in trained)


def _are_copies(name: str, other: str) -> bool:
    """Whether two dotted names end alike and differ before that in words, not in a number alone.

    ``"ema.module.0.weight"`` and ``"net.0.weight"`` do; ``"layer1.bn.weight"`` and ``"layer2.bn.weight"`` do not.
    """
    one, two = name.split("."), other.split(".")
    while one and two and one[-1] == two[-1]:
        one.pop()
        two.pop()
    if one == two or len(name.split(".")) - len(one) < 2:
        return False
    return (one[-1].strip("_0123456789") if one else "") != (two[-1].strip("_0123456789") if two else "")
