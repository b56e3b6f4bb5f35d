"""Recorded parameters, buffers, modes and attributes put into a module that was built anew."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.guards.bundle._folder import BundleError
from lightning_tuning.guards.bundle._read import Bundle
from lightning_tuning.guards.bundle._state import clean_name

__all__ = ["load_into"]

_NAMED = 5
"""Names listed of each kind."""


def load_into(pl_module: LightningModule, bundle: Bundle, *, partial: bool) -> list[str]:
    """Give ``pl_module`` the state of the bundle, in the recorded dtypes.

    Args:
        pl_module: built anew.
        bundle: what was recorded.
        partial: whether to go on with the tensors that fit where not all do.

    Returns:
        What differs and does no harm, a line each.

    Raises:
        BundleError: if names or shapes differ and ``partial`` is false.
    """
    parameters = {clean_name(name): p for name, p in pl_module.named_parameters(remove_duplicate=False)}
    buffers = {clean_name(name): b for name, b in pl_module.named_buffers(remove_duplicate=False)}
    transient = {*bundle.run["transient"], *_transient(pl_module)}
    recorded = {**bundle.parameters, **bundle.buffers}
    here: dict[str, Tensor] = {**parameters, **buffers}
    fitting = {n: t for n, t in here.items() if n in recorded and (is_lazy(t) or t.shape == recorded[n].shape)}
    shapes = [
        f"{name} {list(t.shape)} (recorded {list(recorded[name].shape)})"
        for name, t in here.items()
        if name in recorded and name not in fitting
    ]
    differences = {
        "missing": [name for name in recorded if name not in here],
        "unexpected": [name for name in here if name not in recorded],
        "of another shape": shapes,
    }
    said = {kind: [n for n in names if n not in transient] for kind, names in differences.items()}
    sentence = "; ".join(f"{kind}: {_listed(names)}" for kind, names in said.items() if names)
    if sentence and not partial:
        raise BundleError(f"the module is not the recorded one: {sentence}.")
    for name, tensor in fitting.items():
        _fill(tensor, recorded[name])
    notes = [f"the module is not the recorded one: {sentence}"] if sentence else []
    if untied := [name for name in _shared(fitting) if not _same(recorded, _shared(fitting)[name])]:
        notes.append(f"tied now, and not then: {_listed(untied)}")
    _set_modes(pl_module, bundle.run)
    return notes + _set_attributes(pl_module, bundle.attributes)


def _fill(tensor: Tensor, recorded: Tensor) -> None:
    """Exactly the recorded values, whatever the dtype that the module was built with."""
    if is_lazy(tensor):
        lazy: Any = tensor
        lazy.materialize(recorded.shape, dtype=recorded.dtype)
    with torch.no_grad():
        if tensor.dtype == recorded.dtype and tensor.layout is torch.strided and not tensor.is_meta:
            tensor.copy_(recorded)
        else:
            tensor.data = recorded.clone()


def _set_modes(pl_module: LightningModule, run: dict[str, Any]) -> None:
    pl_module.train()
    for name, part in pl_module.named_modules():
        part.training = clean_name(name) not in run["eval"]
    for name, parameter in pl_module.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(clean_name(name) not in run["frozen"])


def _set_attributes(pl_module: LightningModule, recorded: dict[str, dict[str, Any]]) -> list[str]:
    parts = {clean_name(name): part for name, part in pl_module.named_modules()}
    gone = []
    for path, attributes in recorded.items():
        known = vars(parts[path]) if path in parts else {}
        gone += [f"{path}.{name}".lstrip(".") for name in attributes if name not in known]
        known.update({name: value for name, value in attributes.items() if name in known})
    return [f"attributes that are not there any more: {_listed(gone)}"] if gone else []


def _transient(pl_module: LightningModule) -> set[str]:
    """Buffers that the module itself does not save: made by the step perhaps, or remade by it."""
    named = ((clean_name(name), part._non_persistent_buffers_set) for name, part in pl_module.named_modules())
    return {f"{name}.{key}".lstrip(".") for name, keys in named for key in keys}


def _shared(tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Of tensors with several names, those by the first."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return {several[0]: several for several in names.values() if len(several) > 1}


def _same(recorded: dict[str, Tensor], names: list[str]) -> bool:
    return all(recorded[name] is recorded[names[0]] for name in names)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
