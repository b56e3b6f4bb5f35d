"""One training step as a dataflow graph: operations, the values between them, and questions to ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from lightning_tuning.trace._op import Op, Value, ValueKind

__all__ = ["Graph", "Op", "Value", "ValueKind"]

_T = TypeVar("_T")


@dataclass
class Graph:
    """Who feeds whom in one training step, up to the loss.

    Operations are in the order of execution, so each one's inputs were made by earlier ones. Questions about neighbours
    are answered with operations, the transitive ones (:meth:`upstream`, :meth:`downstream`) with a set of indices.

    Attributes:
        ops: every operation seen.
        values: every value they read or made.
        losses: indices of the values that went into a backward pass.
        blind: one sentence for each thing that could not be seen; empty means the whole step was seen.

    Example:
        >>> import torch
        >>> from lightning_tuning.trace import Recorder
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> x = torch.ones(2, 4)
        >>> with Recorder(net, x) as recorder:
        ...     recorder.mark_loss(net(x).square().mean())
        >>> graph = recorder.graph
        >>> [op.name for op in graph.ops]
        ['linear', 'relu', 'linear', 'square', 'mean']
        >>> (relu,) = graph.find("relu")
        >>> [op.module for op in graph.parents(relu)], sorted(graph.downstream(relu)), graph.reaches_loss(relu)
        (['0'], [2, 3, 4], True)
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)

    def producer(self, value: Value | int) -> Op | None:
        """The operation that made ``value`` (a Value or its index); ``None`` for what was there before the step."""
        made_by = self._value(value).producer
        return None if made_by is None else self.ops[made_by]

    def consumers(self, value: Value | int) -> list[Op]:
        """The operations that read ``value`` (a Value or its index), in order."""
        return [self.ops[index] for index in self._readers[self._value(value).index]]

    def parents(self, op: Op | int) -> list[Op]:
        """The operations whose results ``op`` (an Op or its index) reads, in order, each once."""
        return [self.ops[index] for index in sorted(self._above[self._op(op).index])]

    def children(self, op: Op | int) -> list[Op]:
        """The operations that read a result of ``op`` (an Op or its index), in order, each once."""
        return [self.ops[index] for index in sorted(self._below[self._op(op).index])]

    def upstream(self, start: Op | Value | int, *, through: Callable[[Op], bool] | None = None) -> set[int]:
        """Indices of the operations that ``start`` depends on, itself left out.

        Args:
            start: an Op, its index, or a Value (whose producer is upstream of it).
            through: passes only operations for which this is true; one that is not passed is still in the answer, what
                lies behind it is not. Default: passes all.
        """
        if isinstance(start, Value):
            first = [] if start.producer is None else [start.producer]
        else:
            first = self._above[self._op(start).index]
        return self._walk(first, self._above, through)

    def downstream(self, start: Op | Value | int, *, through: Callable[[Op], bool] | None = None) -> set[int]:
        """Indices of the operations that depend on ``start``, itself left out; arguments as of :meth:`upstream`."""
        first = self._readers[start.index] if isinstance(start, Value) else self._below[self._op(start).index]
        return self._walk(first, self._below, through)

    def reaches_loss(self, start: Op | Value | int) -> bool:
        """Whether a loss depends on ``start`` (an Op, its index, or a Value); never where no loss was marked."""
        if isinstance(start, Value):
            return start.index in self.losses or any(index in self._feeding for index in self._readers[start.index])
        return self._op(start).index in self._feeding

    def find(
        self,
        *names: str,
        module: str | None = None,
        feeding: bool | None = None,
        where: Callable[[Op], bool] | None = None,
    ) -> list[Op]:
        """The operations that answer to all that is asked, in order of execution.

        Args:
            names: canonical names, any of them; none given means every name.
            module: only within the module of this path (its submodules included).
            feeding: only those on which a loss depends (true) or does not (false).
            where: only those for which this is true.
        """
        return [
            op
            for op in self.ops
            if (not names or op.name in names)
            and (module is None or module in ("", op.module) or op.module.startswith(f"{module}."))
            and (feeding is None or (op.index in self._feeding) is feeding)
            and (where is None or where(op))
        ]

    def answer(self, question: Callable[[Graph], _T]) -> _T:
        """``question(graph)``, asked once however many want to know; the graph must be complete."""
        if question not in self._answers:
            self._answers[question] = question(self)
        return self._answers[question]  # type: ignore[no-any-return]  # of whatever type the question's answers are

    def to_dict(self) -> dict[str, Any]:
        """The graph as plain JSON types."""
        return {
            "ops": [op.to_dict() for op in self.ops],
            "values": [value.to_dict() for value in self.values],
            "losses": list(self.losses),
            "blind": list(self.blind),
        }

    def summary(self) -> str:
        """The graph as text, one operation a line: index, name, module, operations it reads from, source line."""
        lines = [repr(self)]
        for op in self.ops:
            reads = ", ".join(str(parent.index) for parent in self.parents(op)) or "-"
            what = f"{op.name}{'_' if op.inplace else ''}"
            where = f"{op.module or '(root)'}: {op.module_type}"
            lines.append(f"{op.index:>5}  {what:<24} <- {reads:<16} {where}  {op.source_line or ''}".rstrip())
        lines += [f"blind here: {sentence}" for sentence in self.blind]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Graph({len(self.ops)} ops, {len(self.values)} values, {len(self.losses)} losses, {len(self.blind)} blind)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "ops": self.ops,
            "values": self.values,
            "losses": self.losses,
            "blind": self.blind,
        }  # without the caches

    @cached_property
    def _answers(self) -> dict[Callable[[Graph], Any], Any]:
        return {}

    @cached_property
    def _readers(self) -> list[list[int]]:
        readers: list[list[int]] = [[] for _ in self.values]
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                readers[value].append(op.index)
        return readers

    @cached_property
    def _feeding(self) -> set[int]:
        makers = (self.values[index].producer for index in self.losses)
        return self._walk([maker for maker in makers if maker is not None], self._above, None)

    @cached_property
    def _above(self) -> list[list[int]]:
        makers = [value.producer for value in self.values]
        return [[m for m in dict.fromkeys([makers[v] for v in op.inputs]) if m is not None] for op in self.ops]

    @cached_property
    def _below(self) -> list[list[int]]:
        below: list[list[int]] = [[] for _ in self.ops]
        for index, above in enumerate(self._above):
            for maker in above:
                below[maker].append(index)
        return below

    def _walk(
        self, first: Iterable[int], neighbours: list[list[int]], through: Callable[[Op], bool] | None
    ) -> set[int]:
        seen = set(first)
        waiting = list(seen)
        while waiting:
            index = waiting.pop()
            if through is not None and not through(self.ops[index]):
                continue
            for other in neighbours[index]:
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen

    def _op(self, op: Op | int) -> Op:
        return self.ops[op] if isinstance(op, int) else op

    def _value(self, value: Value | int) -> Value:
        return self.values[value] if isinstance(value, int) else value

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)
