"""LT306: a dropout of single pixels right behind a convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._masks import masks
from lightning_tuning.rules._ops import ACTIVATIONS, made_of_parameters, place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT306", "elementwise_dropouts_on_maps"]

LT306 = register(
    Rule(
        code="LT306",
        name="elementwise-dropout-on-maps",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Neighbouring pixels of a feature map tell the same: what one dropped pixel knew, the others still say, so "
            "the dropout regularizes little and acts as noise. Dropout2d drops whole channels."
        ),
        remedy="`nn.Dropout2d(p)` on maps `[N, C, H, W]`, `nn.Dropout3d(p)` on volumes; or dropout in the head alone.",
        source="Tompson et al. 2015, Efficient Object Localization Using Convolutional Networks, section 3.2",
    )
)

_CONVOLUTIONS = frozenset({"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d"})


def elementwise_dropouts_on_maps(graph: Graph) -> list[Finding]:
    """LT306 for the elementwise dropouts on maps that a convolution made, an activation between at most.

    Quiet behind normalization or pooling, for 1x1 convolutions (linear layers of each pixel, as in attention) and for
    maps of one pixel.
    """
    found = [
        (mask, convolution)
        for mask in graph.answer(masks)
        if mask.op.name == "dropout"
        and graph.reaches_loss(mask.op)
        and (convolution := _convolution_before(graph, mask.op)) is not None
    ]
    if not found:
        return []
    mask, convolution = found[0]
    shape = graph.values[mask.op.inputs[0]].shape
    more = f"; likewise in {len(found) - 1} more" if len(found) > 1 else ""
    return [
        LT306.finding(
            f"dropout (p={mask.p:g}) of single elements on the maps {list(shape)} of {place(convolution)}{more}",
            where=mask.op.module,
            source_line=mask.op.source_line,
            evidence={"p": mask.p, "convolution": place(convolution), "dropouts": len(found), "pixels": shape[-1]},
            remedy=f"`nn.Dropout{len(shape) - 2}d({mask.p:g})`, which drops channels.",
        )
    ]


def _convolution_before(graph: Graph, dropout: Op) -> Op | None:
    value = dropout.inputs[0]
    if all(size == 1 for size in graph.values[value].shape[2:]):
        return None
    op = graph.producer(value)
    if op is not None and op.name in ACTIVATIONS:
        op = graph.producer(op.inputs[0])
    if op is None or op.name not in _CONVOLUTIONS:
        return None
    weights = graph.answer(made_of_parameters)
    kernels = (graph.values[value].shape[2:] for value in op.inputs if value in weights)
    return op if any(size > 1 for kernel in kernels for size in kernel) else None
