"""The traced step as blocks: consecutive operations of one module, and what goes from one to the next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from lightning_tuning.trace import Graph, Op, Value

__all__ = ["MOST_NODES", "model_map"]

MOST_NODES = 2_000
"""Blocks that are kept; a net of 200 layers has 400 to 1,000. One of them takes some 150 bytes."""
_AFTERWARDS = frozenset({"clone", "div", "float", "mul", "to"})
_MOST_NAMES = 20
"""Names of operations in one block; a module that loops over time has thousands."""

Group = tuple[str, str, list[Op]]
"""A module's path, its class, and its operations."""


def model_map(graph: Graph) -> dict[str, Any]:
    """``model.json``: what :class:`~lightning_tuning.reporters.run_record.ModelMap` tells, as plain JSON types.

    Operations that run one after the other in one module are one block; the operation that gives a loss is a block of
    its own. What feeds no loss is left out, where there is one. Of more than :data:`MOST_NODES` blocks the innermost
    modules are shown as one with the modules that hold them, and what is too much even then is cut off before the loss;
    ``blind`` says so.

    Args:
        graph: of a training step.

    Example:
        >>> import torch
        >>> from lightning_tuning.trace import Recorder
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> x = torch.ones(2, 4)
        >>> with Recorder(net, x) as recorder:
        ...     recorder.mark_loss(net(x).square().mean())
        >>> map = model_map(recorder.graph)
        >>> [(node["module"], node["kind"], node["parameters"]) for node in map["nodes"]]
        [('0', 'Linear', 40), ('1', 'ReLU', 0), ('2', 'Linear', 9), ('', 'Sequential', 0), ('', 'loss', 0)]
        >>> map["edges"]
        [[0, 1], [1, 2], [2, 3], [3, 4]]
    """
    blind = list(graph.blind)
    ops = graph.find(feeding=True) or list(graph.ops)
    losses = _loss_ops(graph)
    depth = max((op.module.count(".") + 1 for op in ops if op.module), default=0)
    groups = list(_groups(ops, losses, depth))
    all_of_them = len(groups)
    while len(groups) > MOST_NODES and depth > 1:
        depth -= 1
        groups = list(_groups(ops, losses, depth))
    if len(groups) < all_of_them:
        blind.append(
            f"The model ran in {all_of_them} blocks, here shown as {len(groups)}: modules within modules of level "
            f"{depth} are not shown by themselves."
        )
    if len(groups) > MOST_NODES:
        kept = [*groups[: MOST_NODES - 1], groups[-1]]
        blind.append(f"Left out are {len(groups) - MOST_NODES} of {len(groups)} blocks of the model, before its loss.")
        groups = kept
    place = {op.index: number for number, (_, _, held) in enumerate(groups) for op in held}
    edges = {
        (place[parent.index], number)
        for number, (_, _, held) in enumerate(groups)
        for op in held
        for parent in graph.parents(op)
        if place.get(parent.index, number) != number
    }
    nodes = [_node(graph, *group) for group in groups]
    return {"nodes": nodes, "edges": [list(edge) for edge in sorted(edges)], "blind": blind}


def _loss_ops(graph: Graph) -> set[int]:
    """The operations that give the losses, and what is done to those afterwards (Lightning divides by the batches)."""
    found: set[int] = set()
    for index in graph.losses:
        op = graph.producer(index)
        while op is not None:
            found.add(op.index)
            parents = graph.parents(op)
            op = parents[0] if op.name in _AFTERWARDS and len(parents) == 1 else None
    return found


def _groups(ops: list[Op], losses: set[int], depth: int) -> Iterator[Group]:
    """Consecutive operations of one module, whose path is cut at ``depth``."""

    def key(op: Op) -> tuple[str, bool]:
        return ".".join(op.module.split(".")[:depth]), op.index in losses

    for (module, is_loss), some in itertools.groupby(ops, key):
        held = list(some)
        kinds = {op.module_type for op in held if op.module == module}
        yield module, "loss" if is_loss else next(iter(kinds), ""), held


def _node(graph: Graph, module: str, kind: str, held: list[Op]) -> dict[str, Any]:
    names = list(dict.fromkeys(op.name for op in held))
    read = {index for op in held for index in op.inputs}
    trained = {v.name: math.prod(v.shape) for v in map(graph.values.__getitem__, read) if _is_trained(v)}
    outputs = [graph.values[index] for op in held for index in op.outputs]
    return {
        "module": module,
        "kind": kind,
        "operations": names[:_MOST_NAMES],
        "shape": list(outputs[-1].shape) if outputs else [],
        "parameters": sum(trained.values()),
        "source_line": next((op.source_line for op in held if op.source_line), None),
    }


def _is_trained(value: Value) -> bool:
    return value.kind == "parameter" and value.requires_grad
