"""LT304: a dropout between the last weight layer and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._masks import Mask, masks
from lightning_tuning.rules._ops import place
from lightning_tuning.rules._reach import heads

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT304", "dropouts_on_output", "output_masks"]

LT304 = register(
    Rule(
        code="LT304",
        name="dropout-on-output",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Zeroed logits and predictions are errors that no weight can answer for: the loss keeps a floor, and the "
            "others are scaled by 1/(1-p). Dropout belongs before the last weight layer."
        ),
        remedy="`nn.Sequential(..., nn.Dropout(p), nn.Linear(hidden, outputs))`: dropout before the last weight layer.",
        source="Srivastava et al. 2014, Dropout, section 4: units of the input and hidden layers are dropped",
    )
)


def dropouts_on_output(graph: Graph) -> list[Finding]:
    """LT304 for each active dropout whose result is compared with a target, with no weight layer between.

    Followed from the loss back through what works element by element. Quiet where the path meets a sum of several
    branches (residuals), a product of activations (attention, similarities), an average over positions, or a
    normalization; for penalties, and where a network made the target.
    """
    return [
        LT304.finding(
            f"dropout (p={mask.p:g}) behind the last weight layer: its zeros go straight into the loss {place(loss)}",
            where=mask.op.module,
            source_line=mask.op.source_line,
            evidence={"p": mask.p, "dropout": place(mask.op), "loss": loss.name, "loss_line": loss.source_line or ""},
        )
        for mask, loss in ((mask, head.term.op) for head in graph.answer(heads) for mask in _of(graph, head.ops))
    ]


def output_masks(graph: Graph) -> set[int]:
    """Indices of the operations that LT304 speaks of; ask by ``graph.answer(output_masks)``."""
    return {mask.op.index for head in graph.answer(heads) for mask in _of(graph, head.ops)}


def _of(graph: Graph, ops: tuple[object, ...]) -> list[Mask]:
    return [mask for mask in graph.answer(masks) if not mask.inside and mask.op in ops]
