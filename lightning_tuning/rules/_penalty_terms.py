"""The summands of a loss that are norms of parameters and read nothing of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lightning_tuning.rules._loss_reduction import MEANS, SUMS
from lightning_tuning.rules._ops import made_of_parameters
from lightning_tuning.rules._views import VIEW_OPS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["JOINING", "PenaltyTerm", "penalty_terms"]

_COLLECTS = frozenset({"stack", "cat", "hstack", "vstack", "concat"})
JOINING = VIEW_OPS | MEANS | SUMS | _COLLECTS | {"add", "sub", "rsub", "neg", "mul", "div"}
"""Operations by which the scalars of a loss become one: a factor of each of them is known."""

_NORMS = frozenset(
    {
        "norm",
        "linalg_norm",
        "linalg_vector_norm",
        "linalg_matrix_norm",
        "frobenius_norm",
        "nuclear_norm",
        "abs",
        "square",
    }
)
_NUMBERS = frozenset({"mul", "div", "add", "sqrt", "pow", "clone", "float", "to"})
_PENALTY_OPS = _NORMS | _NUMBERS | VIEW_OPS | MEANS | SUMS | _COLLECTS | {"l1_loss", "mse_loss", "dot"}
_ZEROS = frozenset({"zeros", "zeros_like", "new_zeros"})
_EPSILON = 1e-3
"""A number that is added to keep a root or a quotient from 0."""


@dataclass(frozen=True)
class PenaltyTerm:
    """One of them.

    Attributes:
        value: index of the summand.
        factor: by which plain numbers multiply it on its way to the loss.
        multiplied_by: indices of scalar tensors that multiply it there.
        divided_by: likewise.
    """

    value: int
    factor: float = 1.0
    multiplied_by: tuple[int, ...] = ()
    divided_by: tuple[int, ...] = ()


def penalty_terms(graph: Graph) -> list[PenaltyTerm]:
    """The L1 and L2 penalties in the loss; none where the loss is nothing else. Ask by ``graph.answer``.

    A penalty is a sum, mean or root of absolute values, squares or norms of trained parameters, times what you like.
    What pulls parameters to anywhere else than 0 (weights before fine-tuning, an orthogonal matrix, the prior of a
    Bayesian net) is none: that may be as large as it is meant to be. Nor is what reads a part of a parameter that the
    batch chooses, such as the norm of an embedding.
    """
    if len(graph.losses) != 1:
        return []
    weights = graph.answer(made_of_parameters)
    found: list[PenaltyTerm] = []
    has_data = False
    waiting = [PenaltyTerm(graph.losses[0])]
    while waiting:
        term = waiting.pop()
        if not graph.values[term.value].requires_grad or graph.producer(term.value) is None:
            continue
        if term.value in weights:
            if _is_penalty(graph, term.value, weights):
                found.append(term)
            continue
        before = _before(graph, term)
        if before is None:
            has_data = True
        else:
            waiting += before
    return sorted(found, key=lambda term: term.value) if has_data else []


def _before(graph: Graph, term: PenaltyTerm) -> list[PenaltyTerm] | None:
    """What ``term`` is put together from; ``None`` where it is no mere sum."""
    op = graph.ops[graph.values[term.value].producer or 0]
    carrying = [index for index in dict.fromkeys(op.inputs) if graph.values[index].requires_grad]
    others = tuple(index for index in dict.fromkeys(op.inputs) if index not in carrying)
    adds_up = op.name in MEANS | SUMS and _collects_scalars(graph, graph.producer(op.inputs[0]))
    is_known = op.name in JOINING and (adds_up or all(_is_scalar(graph, index) for index in op.inputs))
    if not is_known or (op.name in ("mul", "div") and (len(carrying) != 1 or op.inputs.count(carrying[0]) != 1)):
        return None
    number = op.arguments.get("other")
    factor = float(number) if isinstance(number, int | float) else 1.0
    if op.name == "mul":
        term = replace(term, factor=term.factor * factor, multiplied_by=(*term.multiplied_by, *others))
    elif op.name == "div":
        if op.inputs[0] not in carrying or factor == 0:
            return None
        term = replace(term, factor=term.factor / factor, divided_by=(*term.divided_by, *others))
    elif adds_up and op.name in MEANS:
        term = replace(term, factor=term.factor / math.prod(graph.values[op.inputs[0]].shape))
    return [replace(term, value=index, factor=_sign(op, index) * term.factor) for index in carrying]


def _collects_scalars(graph: Graph, op: Op | None) -> bool:
    return op is not None and op.name in _COLLECTS and all(_is_scalar(graph, index) for index in op.inputs)


def _sign(op: Op, index: int) -> float:
    is_first = index == op.inputs[0]
    return -1.0 if op.name in ("neg", "rsub" if is_first else "sub") else 1.0


def _is_scalar(graph: Graph, index: int) -> bool:
    return all(size == 1 for size in graph.values[index].shape)


def _is_penalty(graph: Graph, value: int, weights: set[int]) -> bool:
    """Whether nothing but norms of parameters is in it, and at least one of a parameter of more than one element."""
    measures = False
    waiting, seen = [value], set()
    while waiting:
        index = waiting.pop()
        maker = graph.producer(index)
        if index in seen or index not in weights or maker is None:
            continue
        seen.add(index)
        if maker.name not in _PENALTY_OPS or not _stays_at_zero(graph, maker):
            return False
        measures |= _measures(maker) and not _is_scalar(graph, maker.inputs[0])
        waiting += maker.inputs
    return measures


def _stays_at_zero(graph: Graph, op: Op) -> bool:
    """Whether it does not pull its input to anywhere else than 0, nor takes a power that it does not know."""
    if op.name == "pow":
        return isinstance(_exponent(op), int | float)
    if op.name == "add":
        number = op.arguments.get("other")
        is_small = not isinstance(number, int | float) or abs(number) < _EPSILON
        return is_small and all(graph.values[i].requires_grad or _is_scalar(graph, i) for i in op.inputs)
    if op.name in ("l1_loss", "mse_loss"):
        target = graph.values[op.inputs[1]] if len(op.inputs) == 2 else None
        return target is not None and target.kind == "constant" and (target.name or "") in _ZEROS
    return True


def _exponent(op: Op) -> Any:
    return op.arguments.get("exponent", op.arguments.get("other"))


def _measures(op: Op) -> bool:
    """It is 0 at 0 and larger everywhere else."""
    if op.name in ("mul", "dot"):
        return len(op.inputs) == 2 and op.inputs[0] == op.inputs[1]
    if op.name == "pow":
        return _exponent(op) in (2, 4)
    return op.name in _NORMS | {"l1_loss", "mse_loss"}
