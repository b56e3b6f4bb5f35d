"""Losses that are written out in operations, found from the loss backward."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_reduction import MEANS, SUMS, later_reduction
from lightning_tuning.rules._loss_term import LOSS_FUNCTIONS, LossKind, LossTerm
from lightning_tuning.rules._ops import made_of_parameters
from lightning_tuning.rules._views import VIEW_OPS, behind_views

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["terms_by_hand"]

_SCALAR_OPS = VIEW_OPS | frozenset(
    """
    add sub neg mul div pow exp log log1p sqrt clamp clamp_min clamp_max maximum minimum max min nan_to_num where
    mean sum stack cat hstack vstack abs square tanh softplus relu
    """.split()  # noqa: SIM905
)
"""What may be done to the scalars that a loss is made of."""

_COLLECTS = frozenset({"stack", "cat", "hstack", "vstack"})
_TRANSPARENT = VIEW_OPS | MEANS | SUMS | {"neg", "nan_to_num"}
_PICKS = frozenset({"gather", "getitem", "take_along_dim", "masked_select", "index_select"})
_CHOICES = frozenset({"where", "masked_fill"})


def terms_by_hand(graph: Graph) -> list[LossTerm]:
    """The terms that no loss function of torch's makes, in the order in which they are met."""
    terms = (term for value in _summands(graph) for term in _Summand(graph, value).terms())
    return list({(term.op.index, term.kind): term for term in terms}.values())


def _summands(graph: Graph) -> Iterator[int]:
    """The values that the scalars of a loss are made of, where a summand stops being a scalar."""
    weights = graph.answer(made_of_parameters)
    waiting, seen = list(graph.losses), set()
    while waiting:
        value = waiting.pop()
        op = graph.producer(value)
        if value in seen or op is None or value in weights or not graph.values[value].requires_grad:
            continue
        seen.add(value)
        if op.name in LOSS_FUNCTIONS:
            continue
        inputs = [index for index in op.inputs if graph.values[index].requires_grad and index not in weights]
        if op.name in MEANS | SUMS and (collected := graph.producer(op.inputs[0])) and collected.name in _COLLECTS:
            inputs = [index for index in collected.inputs if graph.values[index].requires_grad]
        if op.name in _SCALAR_OPS and all(_is_scalar(graph, index) for index in inputs):
            waiting += inputs
        else:
            yield value


@dataclasses.dataclass(frozen=True)
class _Anchor:
    """The operation that makes a summand what it is, and what it reads."""

    kind: LossKind
    op: Op
    prediction: int
    half: str = ""  # of a binary cross entropy: "p" or "1 - p"


class _Summand:
    """Goes back from one summand of a loss until every way of the gradient has met something that is known or not."""

    def __init__(self, graph: Graph, value: int) -> None:
        self._graph = graph
        self._value = value
        self._anchors: dict[tuple[str, int, str], _Anchor] = {}
        self._targets: list[int] = []
        self._factors: list[int] = []
        self._has_function = self._is_impure = self._is_weighted = False

    def terms(self) -> Iterator[LossTerm]:
        """What the summand is: one term that is known, an ``"other"``, or nothing but known functions."""
        waiting, seen = [self._value], set()
        while waiting:
            value = waiting.pop()
            if value not in seen:
                seen.add(value)
                waiting += self._behind(value)
        known = None if self._is_impure else self._known()
        if known is not None:
            yield known
        elif self._anchors or self._is_impure:
            op = self._graph.producer(self._value)
            if op is not None:
                reduction, _ = later_reduction(self._graph, self._inner(op))
                yield LossTerm("other", op, self._inner(op), None, reduction, by_hand=True)

    def _known(self) -> LossTerm | None:
        halves = {anchor.half for anchor in self._anchors.values()}
        anchors = {(anchor.kind, anchor.prediction): anchor for anchor in reversed(self._anchors.values())}
        if len(anchors) != 1:
            return None
        (anchor,) = anchors.values()
        targets = list(dict.fromkeys(self._targets))
        weights: list[int] = []
        for factor in dict.fromkeys(self._factors):
            fits = self._graph.values[factor].shape == self._graph.values[anchor.prediction].shape
            is_target = not targets and fits and not self._is_complement(factor)
            (targets if is_target else weights).append(factor)
        if len(targets) != 1 or (anchor.kind == "bce" and halves != {"p", "1 - p"}):
            return None
        if anchor.kind in ("cross_entropy", "bce") and self._is_learned(targets[0]):
            return None  # soft targets of another net, or an entropy
        elements = [index for index in weights if not self._is_complement(index) and not _is_scalar(self._graph, index)]
        reduction, is_weighted = later_reduction(self._graph, anchor.op.outputs[0])
        if anchor.kind in ("cross_entropy", "bce"):
            is_weighted = False  # by its own target
        return LossTerm(
            kind=anchor.kind,
            op=anchor.op,
            prediction=anchor.prediction,
            target=targets[0],
            reduction=reduction,
            is_weighted=is_weighted or self._is_weighted or bool(elements),
            by_hand=True,
        )

    def _behind(self, value: int) -> list[int]:
        """The values behind this one that the search goes on with; notes what it sees on the way."""
        graph = self._graph
        op = graph.producer(value)
        if op is None or op.name in LOSS_FUNCTIONS:
            self._has_function |= op is not None
            self._is_impure |= op is None
            return []
        carrying = [index for index in dict.fromkeys(op.inputs) if graph.values[index].requires_grad]
        others = [index for index in dict.fromkeys(op.inputs) if index not in carrying]
        if (anchor := self._anchor(op)) is not None:
            self._anchors[anchor.kind, anchor.op.index, anchor.half] = anchor
            return []
        if op.name in _PICKS and len(carrying) == 1:
            self._note_choice(others)
            return carrying
        if op.name in _TRANSPARENT and len(carrying) == 1:
            return carrying
        if op.name in _CHOICES and len(carrying) == 1:
            self._is_weighted = True
            return carrying
        if len(carrying) == 1 and (op.name == "mul" or (op.name == "div" and carrying[0] == op.inputs[0])):
            self._note_factors(op, others)
            return carrying
        if op.name in ("add", "sub") and len(carrying) == 2:
            return carrying
        self._is_impure = True
        return []

    def _note_choice(self, indices: list[int]) -> None:
        """Classes that pick an element of each row, ``p[range(n), y]``, or a mask of the samples that count."""
        self._is_weighted |= any("bool" in str(self._graph.values[index].dtype) for index in indices)
        if indices and not self._is_weighted:
            self._targets.append(behind_views(self._graph, indices[-1]))

    def _note_factors(self, op: Op, others: list[int]) -> None:
        for index in others:
            if op.name == "div":
                self._is_weighted |= not _is_scalar(self._graph, index)
            else:
                self._factors.append(index)

    def _anchor(self, op: Op) -> _Anchor | None:
        """What ``op`` makes of a summand; a difference only together with what makes a distance of it."""
        graph = self._graph
        if op.name == "log_softmax":
            return _Anchor("cross_entropy", op, op.inputs[0])
        if op.name == "log":
            return self._logarithm(op)
        is_square = op.name == "square" or (op.name == "mul" and len(op.inputs) == 2 and op.inputs[0] == op.inputs[1])
        is_square |= op.name == "pow" and 2 in (op.arguments.get("other"), op.arguments.get("exponent"))
        if not is_square and op.name != "abs":
            return None
        difference = graph.producer(behind_views(graph, op.inputs[0]))
        if difference is None or difference.name != "sub" or len(difference.inputs) != 2:
            return None
        carrying = [index for index in difference.inputs if graph.values[index].requires_grad]
        if len(carrying) != 1 or carrying[0] in graph.answer(made_of_parameters):
            return None
        (target,) = (index for index in difference.inputs if index not in carrying)
        if _is_scalar(graph, target) and not _is_scalar(graph, carrying[0]):
            return None
        self._targets.append(target)
        return _Anchor("mse" if is_square else "l1", difference, carrying[0])

    def _logarithm(self, op: Op) -> _Anchor | None:
        """``log(p)`` and ``log(1 - p)``, with or without an epsilon, of all classes or of the one picked."""
        graph = self._graph
        half = "p"
        value = op.inputs[0]
        while (maker := graph.producer(value)) is not None:
            carrying = [index for index in dict.fromkeys(maker.inputs) if graph.values[index].requires_grad]
            if maker.name in _PICKS and maker.inputs[:1] == tuple(carrying):
                self._note_choice([index for index in maker.inputs if index not in carrying])
            elif len(maker.inputs) != 1:
                break
            elif maker.name == "sub" and maker.arguments.get("other") == 1:
                half = "1 - p"
            elif maker.name not in VIEW_OPS | {"clamp", "clamp_min", "clamp_max", "add"}:
                break
            value = maker.inputs[0]
        if maker is None:
            return None
        if maker.name == "softmax" and half == "p":
            return _Anchor("cross_entropy", maker, maker.inputs[0])
        if maker.name == "sigmoid":
            return _Anchor("bce", op, value, half)
        return None

    def _is_complement(self, index: int) -> bool:
        maker = self._graph.producer(index)
        return maker is not None and maker.name == "sub" and maker.arguments.get("other") == 1

    def _is_learned(self, index: int) -> bool:
        value = self._graph.values[index]
        return any(self._graph.ops[op].parameters for op in self._graph.upstream(value))

    def _inner(self, op: Op) -> int:
        carrying = (index for index in op.inputs if self._graph.values[index].requires_grad)
        return next(carrying, self._value)


def _is_scalar(graph: Graph, index: int) -> bool:
    return math.prod(graph.values[index].shape) == 1
