"""What an output of the step depends on, by gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_tuning.checks._preflight_batch import replaced
from lightning_tuning.checks._preflight_step import Rehearsal, Seen, Take
from lightning_tuning.rules._loss_terms import LossTerm
from lightning_tuning.trace import Op

__all__ = ["Source", "embeddings", "first_so", "gradients", "look_with_leaves"]

_EMBEDDINGS = frozenset({"embedding"})


class Source(NamedTuple):
    """Something that holds the inputs as numbers with a gradient: floats of the batch, or the embeddings of ids."""

    values: Tensor
    tensor: Tensor
    is_batch: bool


def look_with_leaves(
    rehearsal: Rehearsal, term: LossTerm, look: Callable[[Take, list[Tensor]], None], *, every_op: bool
) -> None:
    """Run the step in evaluation mode with floating inputs that ask for gradients."""
    leaves, exchanged = [], {}
    for tensor in rehearsal.feeding(term).values():
        if tensor.is_floating_point():
            leaf = tensor.detach().clone().requires_grad_()
            leaves.append(leaf)
            exchanged[id(tensor)] = leaf.clone()  # not the leaf itself, which nobody could write to in place
    names = {op.name for op in rehearsal.graph.ops} if every_op else rehearsal.term_names | _EMBEDDINGS
    rehearsal.take(
        lambda take: look(take, leaves), batch=replaced(rehearsal.batch, exchanged), keep=names, evaluation=True
    )


def embeddings(take: Take) -> Iterator[Source]:
    """Of ids, in the order of execution."""
    for index, (inputs, outputs) in sorted(take.kept.items()):
        op = take.graph.ops[index]
        if op.name in _EMBEDDINGS and inputs and outputs and outputs[0].requires_grad and inputs[0].dim() > 0:
            yield Source(outputs[0], inputs[0], take.graph.values[op.inputs[0]].kind == "batch")


def first_so(take: Take, seen: Seen, is_so: Callable[[Tensor], bool]) -> Op | None:
    """The operation on the way to the output with whose result it begins to be so, by bisection; a few gradients."""
    graph = take.graph
    path = [op for op in sorted(graph.upstream(graph.values[seen.term.prediction])) if _differentiable(take, op)]

    def holds(index: int) -> bool:
        return any(is_so(tensor) for tensor in take.kept[index][1] if tensor.requires_grad)

    while path and not holds(path[-1]):  # changes of shape at the end, which are not asked
        path.pop()
    low, high = -1, len(path) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(path[middle]) else (middle, high)
    return graph.ops[path[high]] if path else None


def _differentiable(take: Take, index: int) -> bool:
    return index in take.kept and any(t.requires_grad and t.is_floating_point() for t in take.kept[index][1])


def gradients(output: Tensor, sources: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Of one number with respect to each of ``sources``; ``None`` where it does not depend on it."""
    if not output.requires_grad or output.is_complex():
        return (None,) * len(sources)
    return torch.autograd.grad(output, sources, retain_graph=True, allow_unused=True)
