"""A batch, or other nested values, as what ``torch.load(weights_only=True)`` reads; and back."""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
from collections import OrderedDict, UserDict, deque
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["pack", "unpack"]

_KIND = "__lightning_tuning__"
"""Key of a dict that stands for something that is no tensor, plain value, list, tuple or dict."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_DEPTH = 32


def pack(value: Any, path: str, lost: list[str], inside: tuple[int, ...] = ()) -> Any:
    """``value`` in tensors on the CPU, plain values, lists, tuples and dicts.

    Those stay what they are, so that ``torch.load(file, weights_only=True)`` alone shows them. Other mappings, named
    tuples, NumPy arrays, sets, dataclasses and objects with attributes become dicts that :func:`unpack` knows.

    Args:
        value: anything.
        path: what to call it: ``"batch"``.
        lost: gets a line for each thing that could not be kept, or not as what it is.
        inside: ids of the values that it is part of.

    Example:
        >>> lost = []
        >>> pack({"x": torch.ones(1), "f": print}, "batch", lost)
        {'x': tensor([1.]), 'f': None}
        >>> lost
        ["batch['f']: a builtin_function_or_method was left out"]
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return _pack_tensor(value, path, lost)
    if id(value) in inside or len(inside) == _DEPTH:
        why = "part of itself" if id(value) in inside else "nested too deeply"
        lost.append(f"{path}: a {type(value).__qualname__} was left out, {why}")
        return None
    down = (*inside, id(value))
    if isinstance(value, Mapping) and not isinstance(value, UserDict):
        return _pack_mapping(value, path, lost, down)
    if isinstance(value, tuple):
        return _pack_tuple(value, path, lost, down)
    if isinstance(value, list | deque | set | frozenset):
        items = [pack(item, f"{path}[{i}]", lost, down) for i, item in enumerate(value)]
        kind = next(k for k in (list, deque, set, frozenset) if isinstance(value, k))
        if type(value) is not kind:
            lost.append(f"{path}: a {type(value).__qualname__} was kept as a {kind.__name__}")
        return items if kind is list else {_KIND: kind.__name__, "items": items}
    if (array := _pack_array(value)) is not None:
        return array
    if isinstance(value, bool | int | float | complex | str | bytes):  # an enum's member, a subclass
        plain: Any = next(k for k in (int, float, complex, str, bytes) if isinstance(value, k))
        return plain.__new__(plain, value.value if isinstance(value, enum.Enum) else value)
    if isinstance(value, type | nn.Module) or callable(value) or not _attributes(value):
        lost.append(f"{path}: a {type(value).__qualname__} was left out")
        return None
    attributes = {key: pack(item, f"{path}.{key}", lost, down) for key, item in _attributes(value).items()}
    return {_KIND: "object", "class": _class_path(value), "attributes": attributes}


def unpack(packed: Any, *, home: str | None = None, lost: list[str] | None = None) -> Any:
    """What :func:`pack` was given.

    Nothing is imported and no constructor runs on a file's word: a class is looked for in the modules that are loaded
    already, and its instance is given its attributes. One that is not there, or that does something when it is deleted,
    is stood in for by an object with the same attributes.

    Args:
        packed: what ``pack`` returned.
        home: name of the module where classes of a script (``__main__``) are to be found. Default: nowhere.
        lost: gets a line for each class that has a stand-in.
    """
    lost = [] if lost is None else lost

    def down(item: Any) -> Any:
        return unpack(item, home=home, lost=lost)

    if isinstance(packed, list):
        return [down(item) for item in packed]
    if type(packed) is tuple:
        return tuple(down(item) for item in packed)
    if not isinstance(packed, dict):
        return packed
    kind = packed.get(_KIND)
    if kind is None:
        return type(packed)((key, down(item)) for key, item in packed.items())
    if kind in ("deque", "set", "frozenset"):
        makers: dict[str, Any] = {"deque": deque, "set": set, "frozenset": frozenset}
        return makers[kind](down(item) for item in packed["items"])
    if kind == "array":
        array = packed["values"].numpy()
        return array[()] if packed["scalar"] else array
    return _rebuilt(kind, packed, down, _find(packed["class"], home), lost)


def _rebuilt(kind: str, packed: dict[str, Any], down: Any, found: type | None, lost: list[str]) -> Any:
    """An instance without its constructor; a stand-in where there is no class for it."""
    name = packed["class"].rpartition(":")[2].rpartition(".")[2]
    made: Any
    if kind == "named tuple":
        items = [down(item) for item in packed["items"]]
        if found is not None and issubclass(found, tuple) and getattr(found, "_fields", None) == packed["fields"]:
            return tuple.__new__(found, items)
        lost.append(f"{packed['class']} is not known here: a tuple with the same fields stands in for it")
        return collections.namedtuple(name, packed["fields"], rename=True)(*items)  # noqa: PYI024
    attributes = {key: down(item) for key, item in packed["attributes"].items()}
    if kind == "mapping":
        items = [(down(key), down(item)) for key, item in packed["items"]]
        if found is not None and issubclass(found, dict):
            base: Any = OrderedDict if issubclass(found, OrderedDict) else dict
            made = base.__new__(found)
            for key, item in items:
                base.__setitem__(made, key, item)
            vars(made).update(attributes) if hasattr(made, "__dict__") else None
            return made
        lost.append(f"{packed['class']} is not known here: a dict stands in for it")
        return dict(items)
    if found is not None:
        try:
            made = object.__new__(found)
            for key, item in attributes.items():
                object.__setattr__(made, key, item)
        except (TypeError, AttributeError):  # made in C, or with properties of these names
            pass
        else:
            return made
    lost.append(f"{packed['class']} is not known here: an object with the same attributes stands in for it")
    return SimpleNamespace(**attributes)


def _find(path: str, home: str | None) -> type | None:
    """The class at ``"module:Class"`` if it is loaded and harmless to make: not Python's own, without ``__del__``."""
    module, _, names = path.partition(":")
    if module == "__main__" and home is not None:
        module = home
    found: Any = sys.modules.get(module)
    for name in names.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, type) or hasattr(found, "__del__"):
        return None
    own = found.__module__.partition(".")[0] in sys.stdlib_module_names and found not in (UserDict, OrderedDict)
    return None if own and found.__module__ != "__main__" else found


def _pack_tensor(tensor: Tensor, path: str, lost: list[str]) -> Tensor | None:
    """A copy on the CPU, of its own memory: a view would bring the whole of its storage along."""
    if tensor.device.type == "meta":
        lost.append(f"{path}: a tensor without values (meta) was left out")
        return None
    if type(tensor) not in (Tensor, nn.Parameter) and not tensor.is_nested:
        lost.append(f"{path}: a {type(tensor).__qualname__} was kept as a plain tensor")
        tensor = tensor.as_subclass(Tensor)
    with torch.no_grad():
        copy = tensor.detach().cpu()
        copy = copy.clone() if copy.device == tensor.device else copy
    return copy.requires_grad_(tensor.requires_grad and tensor.is_leaf)


def _pack_mapping(value: Mapping[Any, Any], path: str, lost: list[str], inside: tuple[int, ...]) -> Any:
    items = []
    for key, item in value.items():
        odd: list[str] = []
        plain = pack(key, "", odd, inside)
        if odd or isinstance(key, Tensor):
            lost.append(f"{path}[{key!r}]: an entry with such a key was left out")
        else:
            items.append((plain, pack(item, f"{path}[{key!r}]", lost, inside)))
    if type(value) is dict and _KIND not in value and not any(isinstance(key, dict) for key, _ in items):
        return dict(items)
    attributes = {
        key: pack(item, f"{path}.{key}", lost, inside) for key, item in getattr(value, "__dict__", {}).items()
    }
    return {_KIND: "mapping", "class": _class_path(value), "items": items, "attributes": attributes}


def _pack_tuple(value: tuple[Any, ...], path: str, lost: list[str], inside: tuple[int, ...]) -> Any:
    fields = getattr(value, "_fields", None)
    names = [f"[{i}]" for i in range(len(value))] if fields is None else [f".{field}" for field in fields]
    items = [pack(item, f"{path}{name}", lost, inside) for name, item in zip(names, value, strict=True)]
    if fields is not None:
        return {_KIND: "named tuple", "class": _class_path(value), "fields": tuple(fields), "items": items}
    if type(value) is not tuple:
        lost.append(f"{path}: a {type(value).__qualname__} was kept as a tuple")
    return tuple(items)


def _pack_array(value: Any) -> dict[str, Any] | None:
    """A NumPy array or scalar of numbers."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic) or value.dtype.kind not in "biufc":
        return None
    try:
        values = torch.from_numpy(numpy.array(value, order="C"))
    except TypeError:  # a type that torch does not have: longdouble
        return None
    return {_KIND: "array", "values": values, "scalar": isinstance(value, numpy.generic)}


def _attributes(value: Any) -> dict[str, Any]:
    """Of an object, those in slots included; nothing for what has none of its own."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return {**fields, **getattr(value, "__dict__", {})}
    return dict(getattr(value, "__dict__", {}))


def _class_path(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"
