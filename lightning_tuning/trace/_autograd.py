"""What autograd's own graph knows of operations that did not pass by: custom functions, TorchScript, extensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from lightning_tuning.trace._ledger import Ledger
from lightning_tuning.trace._names import name_node

__all__ = ["AutogradReader", "custom_function"]

_NodeKey = tuple[int, type]


def _node_key(node: Any) -> _NodeKey:
    """Identifies a node without a reference to it: the number in which autograd made it, and its type."""
    return node._sequence_nr(), type(node)


def custom_function(node: Any) -> type | None:
    """The custom autograd function of which ``node`` is one call, if it is."""
    return getattr(node, "_forward_cls", None) if isinstance(node, BackwardCFunction) else None


class AutogradReader:
    """Finds the value of a tensor that no recorded operation made: walks from its ``grad_fn`` to what was recorded.

    Args:
        ledger: values by tensor.
        read: the value of a tensor (for leaves, such as parameters).
        emit: records an operation of that name on those input values and returns its index.
    """

    def __init__(
        self, ledger: Ledger, read: Callable[[Tensor], int], emit: Callable[[str, tuple[int, ...]], int]
    ) -> None:
        self._ledger = ledger
        self._read = read
        self._emit = emit
        self._values: dict[tuple[_NodeKey, int], int] = {}
        self._ops: dict[_NodeKey, int] = {}
        self.unseen: dict[str, None] = {}
        """Names of the operations that only autograd knew, custom functions left out."""

    def register(self, tensor: Tensor, value: int, op: int) -> None:
        """Remember which node made ``tensor``.

        Only just after it was made: later a write to a view could make autograd rebuild the node when asked for it.
        """
        node = tensor.grad_fn
        if node is not None:
            key = _node_key(node)
            self._ops[key] = op
            self._values[key, tensor.output_nr] = value

    def op_of(self, node: Any) -> int | None:
        """The operation known to have made ``node``."""
        return self._ops.get(_node_key(node))

    def value_of(self, node: Any, number: int) -> int:
        """The value that is output ``number`` of ``node``; what nobody recorded on the way there is recorded now."""
        waiting = [(node, False)]
        while waiting:
            current, ready = waiting.pop()
            if current is None or type(current).__name__ == "AccumulateGrad" or _node_key(current) in self._ops:
                continue
            if not ready:
                waiting.append((current, True))
                waiting.extend((before, False) for before, _ in reversed(current.next_functions))
                continue
            inputs = tuple(self._edge(before, nr) for before, nr in current.next_functions if before is not None)
            name = name_node(current)
            self._ops[_node_key(current)] = self._emit(name, inputs)
            if custom_function(current) is None:
                self.unseen[name] = None
        return self._edge(node, number)

    def _edge(self, node: Any, number: int) -> int:
        if type(node).__name__ == "AccumulateGrad":
            return self._read(node.variable)
        key = _node_key(node)
        value = self._values.get((key, number))
        if value is None:
            looks = node._input_metadata[number]
            value = self._ledger.add_output(self._ops[key], looks)
            self._values[key, number] = value
        return value
