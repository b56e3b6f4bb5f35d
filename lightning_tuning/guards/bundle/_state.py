"""What a module is at the start of a bad batch: named tensors, modes, and what else of it has changed in the run."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric, MetricCollection

from lightning_tuning.guards.bundle._tree import pack

__all__ = ["Attributes", "clean_name", "modes_of", "named_tensors", "read_tensors", "write_tensors"]

_STORABLE = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.bool,
        torch.uint8,
        torch.uint16,
    }
    | {torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
)
"""What safetensors has a name for."""


def clean_name(name: str) -> str:
    """``name`` without the wrappers that ``torch.compile`` puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def named_tensors(module: nn.Module, kind: str) -> dict[str, Tensor]:
    """All ``"parameters"`` or ``"buffers"`` by name, tied ones under each of their names; none without values.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> net[1].weight = net[0].weight
        >>> list(named_tensors(net, "parameters"))
        ['0.weight', '1.weight']
    """
    named = getattr(module, f"named_{kind}")(remove_duplicate=False)
    return {clean_name(name): tensor for name, tensor in named if not is_lazy(tensor)}


def write_tensors(file: Path, tensors: Mapping[str, Tensor], lost: list[str]) -> dict[str, Any]:
    """Write ``tensors`` as safetensors.

    Returns:
        ``"aliases"``: names that share a tensor with another, which was written once. ``"others"``: those that
        safetensors cannot hold (sparse, complex128), to be kept elsewhere.
    """
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (twin := first.setdefault(id(tensor), name)) != name:
            aliases[name] = twin
            continue
        plain = pack(tensor, name, lost)
        if plain is None:
            continue
        plain.requires_grad_(False)
        if plain.layout is torch.strided and not plain.is_nested and plain.dtype in _STORABLE:
            kept[name] = plain.contiguous()
        else:
            others[name] = plain
    save_file(kept, file)
    return {"aliases": aliases, "others": others}


def read_tensors(file: Path, aliases: Mapping[str, str], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`write_tensors` was given, aliases as the same tensor."""
    tensors = {**load_file(file), **others}
    return {**tensors, **{name: tensors[twin] for name, twin in aliases.items() if twin in tensors}}


def modes_of(module: nn.Module) -> dict[str, list[str]]:
    """Which modules are in eval mode, which parameters frozen, which buffers never saved by the module itself."""
    parts = [(clean_name(name), part) for name, part in module.named_modules()]
    return {
        "eval": [name for name, part in parts if not part.training],
        "frozen": [name for name, p in named_tensors(module, "parameters").items() if not p.requires_grad],
        "transient": [f"{name}.{key}".lstrip(".") for name, part in parts for key in part._non_persistent_buffers_set],
    }


class Attributes:
    """Plain attributes of a module, to tell those that the run moves (a counter, a hidden state) from its settings.

    A setting must not come out of a bundle: whoever mends one, ``self.eps`` say, wants to see the step with the new.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = {place: _trace(value) for place, value in _plain_attributes(module)}

    def moved(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """By module and name, those that are not what they were when this was made."""
        moved: dict[str, dict[str, Any]] = {}
        for (path, key), value in _plain_attributes(module):
            if not _is_trace(self._before.get((path, key)), value):
                moved.setdefault(path, {})[key] = value
        return moved


def _plain_attributes(module: nn.Module) -> list[tuple[tuple[str, str], Any]]:
    return [
        ((clean_name(path), key), value)
        for path, part in module.named_modules()
        if not isinstance(part, Metric | MetricCollection)
        for key, value in vars(part).items()
        if key not in _internal() and _is_plain(value)
    ]


@cache
def _internal() -> frozenset[str]:
    return frozenset(vars(LightningModule()))


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return bool(value) and all(isinstance(item, Tensor) for item in value)
    return isinstance(value, bool | int | float | str | Tensor | None)


def _trace(value: Any) -> Any:
    """Enough to know a value again, without keeping a tensor alive."""
    if isinstance(value, Tensor):
        return weakref.ref(value), _version(value)
    return tuple(map(_trace, value)) if type(value) is tuple else value


def _is_trace(before: Any, value: Any) -> bool:
    if isinstance(value, Tensor):
        known = type(before) is tuple and len(before) == 2 and isinstance(before[0], weakref.ref)
        return known and before[0]() is value and before[1] == _version(value)
    if type(value) is tuple:
        return type(before) is tuple and len(before) == len(value) and all(map(_is_trace, before, value))
    return type(before) is type(value) and repr(before) == repr(value)  # NaN is NaN here


def _version(tensor: Tensor) -> int:
    """How often it was written to in place; an inference tensor does not count."""
    with contextlib.suppress(RuntimeError):
        return tensor._version
    return 0
