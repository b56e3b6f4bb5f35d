"""LT111: an output for one sample that depends on the other samples of its batch, in evaluation mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import RECURRENT_OPS, WEIGHT_OPS, made_of_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_tuning.trace.graph import Graph, Op, Value

__all__ = ["LT111", "Influence", "influences", "mixes_on_purpose", "sample_mixing"]

LT111 = register(
    Rule(
        code="LT111",
        name="sample-mixing",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "The output for one sample depends on which others are in its batch, with every layer in evaluation mode: "
            "mostly a `view` where a `transpose` was meant, an axis mistaken, or `batch_first` left out. The net "
            "trains, and predicts something else as soon as the batch is another."
        ),
        remedy=(
            "the sample's axis was mixed up: `x.transpose(1, 2)` instead of `x.view(...)`, `batch_first=True` for "
            "(batch, time, features), `dim=-1` in softmax and norms; meant so: `Preflight(allow_mixing=True)`."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks (use backprop to chart dependencies)",
    )
)

RELATIVE = 1e-4  # of the largest gradient: below it rounding, as of a convolution by FFT

_PAIRS = WEIGHT_OPS | {"cdist", "pairwise_distance", "cosine_similarity", "pdist", "baddbmm"}
_INDEXED = frozenset(
    {"getitem", "index_select", "gather", "take", "take_along_dim", "scatter", "scatter_add", "scatter_reduce"}
    | {"index_add", "index_copy", "index_put", "segment_reduce"}
)
_REARRANGED = frozenset({"flip", "roll"})


class Influence:
    """How much each sample of the batch moves one element of the output.

    Args:
        by_sample: a non-negative number for each sample.
    """

    def __init__(self, by_sample: Sequence[float]) -> None:
        most = max(by_sample, default=0.0)
        self.samples = [i for i, value in enumerate(by_sample) if most > 0 and value > RELATIVE * most]
        ranked = sorted(by_sample, reverse=True)
        self.second = ranked[1] / most if len(ranked) > 1 and most > 0 else 0.0

    @property
    def is_mixed(self) -> bool:
        """More than one sample has a say."""
        return len(self.samples) > 1


def influences(gradients: Sequence[tuple[Tensor, int]]) -> Influence | None:
    """The influence on one output element of each sample, from its gradients.

    Args:
        gradients: with respect to inputs or what was made of them, each with its sample axis; all of one batch size.

    Returns:
        ``None`` where no gradient arrives, or one that is not finite.

    Example:
        >>> influences([(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), 0)]).samples
        [1]
    """
    if not gradients:
        return None
    # One device read for the element that is looked at; Preflight runs once.
    total = torch.stack([_by_sample(gradient, axis) for gradient, axis in gradients]).sum(0)
    numbers = total.tolist()
    if not all(0 <= number < float("inf") for number in numbers) or not any(numbers):
        return None
    return Influence(numbers)


def sample_mixing(
    influence: Influence, *, batch_size: int, where: str = "", source_line: str | None = None
) -> Finding | None:
    """LT111 if an element of the output depends on more than one sample.

    Args:
        influence: of the samples on that element.
        batch_size: how many samples there are.
        where: the module in which they meet, if known.
        source_line: the line that does it.

    Example:
        >>> sample_mixing(Influence([0.5, 0.0, 0.0]), batch_size=3) is None
        True
        >>> sample_mixing(Influence([0.5, 0.1, 0.0]), batch_size=3).evidence
        {'samples': 2, 'batch_size': 3, 'relative_gradient': 0.2}
    """
    if not influence.is_mixed:
        return None
    return LT111.finding(
        f"in evaluation mode one output depends on {len(influence.samples)} of {batch_size} samples > 1 "
        f"(gradient with respect to another sample: {influence.second:.2g} of that to its own)",
        where=where,
        source_line=source_line,
        evidence={
            "samples": len(influence.samples),
            "batch_size": batch_size,
            "relative_gradient": round(influence.second, 6),
        },
    )


def mixes_on_purpose(graph: Graph, prediction: Value, target: Value | None, batch_size: int) -> str | None:
    """Why the samples of this batch may rightly have to do with each other, if so.

    On the dataflow that leads to ``prediction``: a head that compares samples with each other (contrastive and metric
    learning, in-batch negatives, prototypes), indices of the batch that say who belongs to whom (graphs, ragged
    sequences), and inputs rearranged before the first layer (mixup).

    Example:
        >>> from lightning_tuning.trace import Recorder
        >>> net = torch.nn.Linear(3, 4)
        >>> x = torch.ones(5, 3)
        >>> with Recorder(net, x) as recorder:
        ...     z = net(x)
        ...     similarity = z @ z.T
        >>> mixes_on_purpose(recorder.graph, recorder.graph.values[-1], None, 5)
        'the output compares samples with each other'
    """
    values = graph.values
    if any(len(value.shape) > 1 and value.shape[0] == value.shape[1] == batch_size for value in _of_batch(graph)):
        return "the batch holds a matrix of its samples"
    if target is not None and not _comes_from_batch(graph, target):
        return "the targets are made in the step"
    path = graph.upstream(prediction)
    weights = graph.answer(made_of_parameters)
    head = graph.upstream(prediction, through=lambda op: not _multiplies_weight(op, weights))
    for index in sorted(path):
        op = graph.ops[index]
        others = [value for value in op.inputs if value not in weights]
        if op.name in _INDEXED and any(_is_index(graph, values[value]) for value in others[1:]):
            return "indices of the batch say what belongs together"
        if index in head and _compares(graph, op, others, batch_size):
            return "the output compares samples with each other"
        if (op.name in _REARRANGED or (op.name in _INDEXED and len(others) > 1)) and not any(
            _multiplies_weight(graph.ops[i], weights) for i in graph.upstream(op)
        ):
            return "samples are rearranged before the first layer (mixup?)"
    return None


def _by_sample(gradient: Tensor, axis: int) -> Tensor:
    return gradient.detach().abs().double().movedim(axis, 0).flatten(1).sum(1).cpu()


def _of_batch(graph: Graph) -> list[Value]:
    return [value for value in graph.values if value.kind == "batch"]


def _comes_from_batch(graph: Graph, value: Value) -> bool:
    if value.kind == "batch":
        return True
    return any(graph.values[i].kind == "batch" for op in graph.upstream(value) for i in graph.ops[op].inputs)


def _is_index(graph: Graph, value: Value) -> bool:
    """Whole numbers that come from the batch."""
    whole = not value.dtype.is_floating_point and not value.dtype.is_complex and value.dtype != torch.bool
    return whole and bool(value.shape) and _comes_from_batch(graph, value)


def _multiplies_weight(op: Op, weights: set[int]) -> bool:
    return op.name in WEIGHT_OPS | RECURRENT_OPS and any(value in weights for value in op.inputs)


def _compares(graph: Graph, op: Op, others: list[int], batch_size: int) -> bool:
    """A product or distance of two things made of the batch, or a table of samples by samples."""
    shapes = [graph.values[value].shape for value in op.outputs]
    if op.name in _PAIRS and len(others) > 1 and any(len(shape) <= 2 for shape in shapes):
        return True
    return any(len(shape) > 1 and shape[0] == shape[1] and shape[0] % batch_size == 0 for shape in shapes)
