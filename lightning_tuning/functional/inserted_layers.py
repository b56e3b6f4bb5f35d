"""A layer in front of or behind another one, without a change of any other name."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

__all__ = ["Side", "insert_layer", "inserted_layer"]

Side: TypeAlias = Literal["before", "behind"]

_CHILDREN: dict[Side, str] = {"before": "inserted_before", "behind": "inserted_behind"}


def insert_layer(target: nn.Module, layer: nn.Module, side: Side) -> None:
    """Apply ``layer`` to the first input of ``target`` (``"before"``) or to its output (``"behind"``).

    ``layer`` becomes a child of ``target`` under a name of its own, called from a forward hook: the names of everything
    else, and so the ``state_dict`` of a net whose inserted layers have no parameters, stay as they were. It follows
    ``train()`` and ``eval()``, shows in ``print(net)``, and is pickled and copied with the net. One that was inserted
    there before is replaced. In a ``Sequential`` it goes to the first or last layer, whose place it is.

    Raises:
        ValueError: for a container that is never called (``ModuleList``, ``ModuleDict``) or an empty ``Sequential``.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> insert_layer(net[1], nn.Dropout(), "before")
        >>> [*net.state_dict()], net[1].inserted_before
        (['0.weight', '0.bias', '1.weight', '1.bias'], Dropout(p=0.5, inplace=False))
    """
    while isinstance(target, nn.Sequential) and len(target):  # a child of it would be one more step of it
        target = target[0 if side == "before" else -1]
    if isinstance(target, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"`target` must be a layer that is called, got an empty or uncalled {type(target).__name__}.")
    is_new = inserted_layer(target, side) is None
    target.add_module(_CHILDREN[side], layer)
    if is_new and side == "before":
        target.register_forward_pre_hook(_apply_before)
    elif is_new:
        target.register_forward_hook(_apply_behind)


def inserted_layer(target: nn.Module, side: Side) -> nn.Module | None:
    """What :func:`insert_layer` has put there."""
    return target._modules.get(_CHILDREN[side])


def _apply_before(target: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if not args or not isinstance(args[0], Tensor):
        raise TypeError(f"the layer inserted before {type(target).__name__} needs a tensor as its first argument.")
    layer: Any = target.inserted_before
    return (layer(args[0]), *args[1:])


def _apply_behind(target: nn.Module, _args: tuple[Any, ...], output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"the layer inserted behind {type(target).__name__} needs a tensor, got {type(output)}.")
    layer: Any = target.inserted_behind
    result: Tensor = layer(output)
    return result
