"""LT309: a batch norm between the last weight layer and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import batch_norms
from lightning_tuning.rules._ops import place
from lightning_tuning.rules._reach import heads

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT309", "batch_norms_on_output"]

LT309 = register(
    Rule(
        code="LT309",
        name="batchnorm-on-output",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "A batch norm on the output standardizes every prediction within its batch: whoever else is in the batch "
            "moves it, the scale that logits or targets need has to be won back by one gain per output, and evaluation "
            "predicts on another scale."
        ),
        remedy="end with the weight layer: `nn.Linear(hidden, outputs)` and no norm behind it.",
        source="Ioffe and Szegedy 2015, Batch Normalization, section 3.2: for the inputs of nonlinearities",
    )
)


def batch_norms_on_output(graph: Graph) -> list[Finding]:
    """LT309 for each batch norm on batch statistics whose result is compared with a target.

    Followed from the loss back through what works element by element; quiet where an average over positions, a sum of
    branches or a product of activations lies between (embeddings, similarities), and where a network made the target.
    """
    norms = {norm.op.index: norm for norm in graph.answer(batch_norms) if norm.is_training}
    found = [(op, head.term.op) for head in graph.answer(heads) for op in head.ops if op.index in norms]
    return [
        LT309.finding(
            f"the loss {place(loss)} is given the output of a batch norm, with no weight layer between",
            where=op.module,
            source_line=op.source_line,
            evidence={
                "loss": loss.name,
                "loss_line": loss.source_line or "",
                "outputs": norms[op.index].input.shape[1],
            },
        )
        for op, loss in found
    ]
