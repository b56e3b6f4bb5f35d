"""LT201: what tells one sample from the next is lost, or blown up, on its way through a plain stack of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import (
    RECURRENT_OPS,
    made_of_parameters,
    main_input,
    output_layers,
    place,
    weight_layers,
)

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT201", "Signal", "signal_collapse"]

LT201 = register(
    Rule(
        code="LT201",
        name="signal-collapse",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "Where all samples look alike to the last layer, its gradient says the same for all of them and the net "
            "learns their mean. Torch's default draws a sixth of the variance that ReLU needs: of the signal .37 is "
            "left at depth 4, 1.2e-2 at 8, 3e-4 at 12; healthy nets keep .16 and more."
        ),
        remedy="`Trainer(callbacks=[WeightInitCallback()])`; for depth a normalization or residual connections.",
        source="He et al. 2015, Delving Deep into Rectifiers, section 2.2; measured with torch 2.13",
    )
)

_COLLAPSED = 3e-2
_LOST = 0.1
"""Of the input's own variation; what was not there the net did not lose."""
_HUGE = 1e3


class Signal(NamedTuple):
    """What reaches a layer.

    Attributes:
        variation: standard deviation between samples over root mean square, over all features together.
        rms: root mean square.
    """

    variation: float
    rms: float


def signal_collapse(graph: Graph, signals: Mapping[int, Signal]) -> list[Finding]:
    """LT201 for each plain stack of layers at whose output layer little or nothing of the signal arrives.

    Judged is what reaches the layers, not what they give: a normalization between them repairs a weak signal, and the
    logits may be anything at first. Stacks with a second path (residual connections, gates, attention) are left alone:
    there a small branch is no loss.

    Args:
        graph: of the first step.
        signals: the signal at the input of the weight layers, by index of the operation; layers without one (of a
            batch of three samples, say) end the stack.
    """
    found: dict[str, Finding] = {}
    if graph.blind:
        return []
    layers = [op for op in graph.answer(weight_layers) if graph.reaches_loss(op)]
    indices = {op.index for op in layers}
    for head in layers:
        if head.index in graph.answer(output_layers):
            finding = _verdict(_chain(graph, head, indices), signals)
            if finding is not None:
                found.setdefault(finding.where, finding)
    return list(found.values())


def _chain(graph: Graph, head: Op, layers: set[int]) -> list[Op]:
    """The weight layers on the only path to ``head``, first to last; those behind its last fork alone."""
    weights = graph.answer(made_of_parameters)
    chain, op = [head], head
    while True:
        value = main_input(graph, op)
        maker = None if value is None else graph.producer(value)
        if maker is None or (_is_join(graph, maker, weights) and maker.name not in RECURRENT_OPS):
            return chain[::-1] if maker is None else []
        if maker.index in layers:
            chain.append(maker)
        op = maker


def _is_join(graph: Graph, op: Op, weights: set[int]) -> bool:
    """Whether ``op`` reads more than one thing that depends on the batch or on another path through the net."""
    read = {value for value in op.inputs if value not in weights}
    return sum(graph.values[value].kind in ("intermediate", "batch") for value in read) > 1


def _verdict(chain: list[Op], signals: Mapping[int, Signal]) -> Finding | None:
    known = [(op, signals[op.index]) for op in chain if op.index in signals]
    if len(known) < 2 or len(known) < len(chain):
        return None
    (_, first), (head, last) = known[0], known[-1]
    if not all(math.isfinite(number) for _, signal in known for number in signal) or last.rms == 0:
        return None
    if last.variation < _COLLAPSED and last.variation < _LOST * first.variation:
        here = next(i for i in range(1, len(known)) if all(s.variation < _COLLAPSED for _, s in known[i:]))
        message = (
            f"between samples its output varies by {known[here][1].variation:.2g} < {_COLLAPSED:g} of its size, what "
            f"reaches the last layer {place(head)} by {last.variation:.2g}; the input did by {first.variation:.2g}"
        )
    elif last.rms > _HUGE and last.rms > _HUGE * first.rms:
        here = next(i for i in range(1, len(known)) if all(s.rms > _HUGE for _, s in known[i:]))
        message = (
            f"its output has an rms of {known[here][1].rms:.2g} > {_HUGE:g}, what reaches the last layer {place(head)} "
            f"{last.rms:.2g}; the input had {first.rms:.2g}"
        )
    else:
        return None
    layer = known[here - 1][0]
    return LT201.finding(
        message,
        where=layer.module,
        source_line=layer.source_line,
        evidence={
            "variation": last.variation,
            "input_variation": first.variation,
            "rms": last.rms,
            "input_rms": first.rms,
            "layers": len(chain),
        },
    )
