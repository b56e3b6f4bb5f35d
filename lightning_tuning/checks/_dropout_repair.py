"""Dropout that feeds a batch norm, moved behind it or replaced by another noise; no parameter changes its name."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_tuning.functional._layers import NORMALIZATIONS
from lightning_tuning.functional.dropout import UOut
from lightning_tuning.functional.inserted_layers import insert_layer, inserted_layer
from lightning_tuning.rules._ops import ACTIVATIONS, BATCH_NORMS, DROPOUTS
from lightning_tuning.rules.dropout_before_batchnorm import Conflict, first_batch_norms
from lightning_tuning.trace import Graph

__all__ = ["dropout_module", "move_dropout", "place_behind", "replace_dropout"]

_WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd)
_POOLS = (
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_ACTIVATIONS = {name.replace("_", "") for name in ACTIVATIONS}
_RESHAPES = (nn.Flatten, nn.Unflatten)


def dropout_module(root: nn.Module, name: str) -> _DropoutNd | None:
    """The dropout module of that dotted name, or ``None`` if it is something else that called a functional dropout."""
    try:
        module = root.get_submodule(name)
    except AttributeError:  # the checkpoint is of another model
        return None
    return module if isinstance(module, _DropoutNd) else None


def place_behind(root: nn.Module, graph: Graph, conflict: Conflict) -> tuple[str | None, str]:
    """The batch norm behind which the dropout of ``conflict`` may go, and why it should be disabled instead.

    Where it may not be moved there is no batch norm, and the reason for that.
    """
    name = conflict.dropout.module
    dropout = dropout_module(root, name)
    if dropout is None:
        return None, "it is functional, change it there"
    parent, _, last = name.rpartition(".")
    sequential = root.get_submodule(parent)
    if not isinstance(sequential, nn.Sequential):
        return None, f"`{parent}` is no nn.Sequential, so that what follows it is not known"
    calls = graph.find(*DROPOUTS, module=name)
    places = [path for path, part in root.named_modules(remove_duplicate=False) if part is dropout]
    if len(calls) > 1 or len(places) > 1:
        return None, "it is used at several places"
    children = [*sequential.named_children()] if len({*sequential}) == len(sequential) else []
    start = next((i for i, (child, _) in enumerate(children) if child == last), None)
    norms = [i for i, (_, part) in enumerate(children) if isinstance(part, _BatchNorm)]
    if start is None or not norms or norms[-1] < start:
        return None, "its batch norm is not in its Sequential"
    target = f"{parent}.{children[norms[-1]][0]}" if parent else children[norms[-1]][0]
    for child, part in children[start + 1 : norms[-1]]:
        if not _carries(part):
            return None, f"`{child}` ({type(part).__name__}) stands between it and the last batch norm"
        if isinstance(part, _RESHAPES) and type(dropout) is not nn.Dropout:
            return None, f"`{child}` changes the shape that {type(dropout).__name__} drops channels of"
    ops = graph.find(*BATCH_NORMS, module=target)
    if len(ops) != 1 or first_batch_norms(graph, ops[0]):
        return None, f"another batch norm follows `{target}`"
    for _, part in children[norms[-1] + 1 :]:
        if isinstance(part, _WEIGHTS):
            break
        if isinstance(part, _DropoutNd) and part.p > 0:
            return target, f"another dropout (p={part.p:g}) follows `{target}` before the next weights"
    return target, ""


def move_dropout(root: nn.Module, name: str, target: str) -> None:
    """Switch the dropout called ``name`` off, and have one like it behind ``target``; the larger rate, if one is there.

    Nothing happens where either is not there (a checkpoint of another model), or the dropout is off already.
    """
    dropout = dropout_module(root, name)
    if dropout is None or not dropout.p:
        return
    try:
        norm = root.get_submodule(target)
    except AttributeError:
        return
    there = inserted_layer(norm, "behind")
    if isinstance(there, _DropoutNd):
        there.p = max(there.p, dropout.p)
    else:
        insert_layer(norm, copy.deepcopy(dropout), "behind")
    dropout.p = 0.0


def replace_dropout(root: nn.Module, name: str) -> bool:
    """Put :class:`UOut` wherever the dropout called ``name`` stands; whether there was one."""
    dropout = dropout_module(root, name)
    if dropout is None:
        return False
    noise = UOut().train(dropout.training)
    for path in [path for path, part in root.named_modules(remove_duplicate=False) if part is dropout]:
        parent, _, last = path.rpartition(".")
        setattr(root.get_submodule(parent), last, noise)
    return True


def _carries(part: nn.Module) -> bool:
    """Whether ``part`` is a layer that a dropout may be moved across."""
    known = isinstance(part, (*_WEIGHTS, *_POOLS, *_RESHAPES, _BatchNorm, _DropoutNd, nn.Identity))
    return known or (type(part).__name__.lower() in _ACTIVATIONS and not isinstance(part, NORMALIZATIONS))
