"""From each value on: where its gradient is lost by what the user wrote, and what goes on with the rest."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from lightning_tuning.rules._gradient_reach import CUTS, READS
from lightning_tuning.rules._loss_terms import loss_terms

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["Echoes", "gradient_cuts"]

Echoes = Mapping[int, Iterable[int]]

_NOBODY = -1

_FROM_OUTSIDE = frozenset({None, "from_numpy", "tensor", "as_tensor", "asarray", "frombuffer"})


def gradient_cuts(graph: Graph, live: Collection[int], echoes: Echoes) -> dict[int, tuple[int, int]]:
    """By value: the operation that goes on with it after its gradient was lost, and the one that lost it.

    One pass over the operations from the last to the first, so as long as the graph. The first of the two is
    ``len(graph.ops)`` where the value becomes the loss; values that are not in the answer lose nothing in a way that is
    sure to be a mistake.

    Args:
        graph: of the step.
        live: indices of the values that get a gradient.
        echoes: see :func:`lightning_tuning.rules.detached_graph.detached`.
    """
    return _Cuts(graph, live, echoes).lost


class _Cuts:
    def __init__(self, graph: Graph, live: Collection[int], echoes: Echoes) -> None:
        self.lost: dict[int, tuple[int, int]] = {}
        self._after: dict[int, tuple[int, int]] = {}  # of a value cut off: what goes on with it; who took its numbers
        self._graph, self._live, self._echoes = graph, live, echoes
        self._loss = len(graph.ops)
        self._new_leaf = max(  # a number made a tensor that asks for gradients: a loss cut off from what it came from
            (graph.consumers(index)[0].index for index in live if _is_new_leaf(graph, index)), default=-1
        )
        self._returns = self._constants_that_matter()
        for op in reversed(graph.ops):
            for value in dict.fromkeys(op.inputs):
                self._look(op, value)

    def _look(self, op: Op, value: int) -> None:
        if op.name in READS:
            back = self._reader_of_numbers(op, value)
            if back is not None:
                self._keep(value, back, op.index)
                self._after[value] = min((back, op.index), self._after.get(value, (back, op.index)))
            return
        onward = self._onward(op)
        reader = self._reader(op, value, onward)
        if reader is not None:
            self._after[value] = min(reader, self._after.get(value, reader))
        if self._cuts(op):
            if onward is not None:
                self._keep(value, onward[0], op.index if onward[1] == _NOBODY else onward[1])
        elif any(self._graph.values[output].requires_grad for output in op.outputs):
            for output in op.outputs:
                if output in self.lost:
                    self._keep(value, *self.lost[output])

    def _keep(self, value: int, reader: int, cut: int) -> None:
        self.lost[value] = min((reader, cut), self.lost.get(value, (reader, cut)))

    def _onward(self, op: Op) -> tuple[int, int] | None:
        """What goes on with the results of ``op`` once they are cut off."""
        found = [self._after[output] for output in op.outputs if output in self._after]
        found += [(self._loss, _NOBODY) for output in op.outputs if output in self._graph.losses]
        return min(found, default=None)

    def _reader(self, op: Op, value: int, onward: tuple[int, int] | None) -> tuple[int, int] | None:
        """What goes on with ``value``, cut off as it is, by way of ``op``."""
        values = self._graph.values
        others = [index for index in op.inputs if index != value and index in self._live]
        if not others or self._cuts(op):
            return onward
        is_layer = all(values[index].kind == "parameter" for index in others)
        is_scalar = all(math.prod(values[output].shape) == 1 for output in op.outputs)
        if is_layer or (op.name in ("add", "sub") and is_scalar):
            learns = any(output in self._live for output in op.outputs)
            return (op.index, _NOBODY) if learns else onward
        return None  # joined to what carries a gradient: compared with it, or stopped on purpose

    def _cuts(self, op: Op) -> bool:
        values = self._graph.values
        return op.name in CUTS or not (op.grad_enabled or any(values[output].requires_grad for output in op.outputs))

    def _reader_of_numbers(self, read: Op, value: int) -> int | None:
        """What reads the numbers that ``read`` took out, where they came back."""
        graph, shape = self._graph, self._graph.values[value].shape
        found = [index for index in self._echoes.get(read.index, ()) if graph.reaches_loss(index)]
        if math.prod(shape) == 1 and read.index < self._new_leaf:
            found.append(self._loss)
        if read.name != "item" and shape:
            found += [reader for size, reader in self._returns if size == shape and reader > read.index]
        return min(found, default=None)

    def _constants_that_matter(self) -> list[tuple[tuple[int, ...], int]]:
        """Shape and first reader of the tensors from outside that a layer which learns reads, or that are predicted."""
        graph = self._graph
        predictions = {term.prediction for term in graph.answer(loss_terms)}
        found = []
        for value in graph.values:
            readers = graph.consumers(value) if _is_outside(graph, value.index) and value.shape else []
            if readers and (value.index in predictions or self._reader(readers[0], value.index, None) is not None):
                found.append((value.shape, readers[0].index))
        return found


def _is_outside(graph: Graph, index: int) -> bool:
    """The tensor was made of numbers, or brought along: no operation of the step made it."""
    value = graph.values[index]
    return value.kind == "constant" and value.producer is None and value.name in _FROM_OUTSIDE


def _is_new_leaf(graph: Graph, index: int) -> bool:
    value = graph.values[index]
    is_leaf = value.requires_grad and _is_outside(graph, index) and math.prod(value.shape) == 1
    return is_leaf and value.name is not None and bool(graph.consumers(index))
