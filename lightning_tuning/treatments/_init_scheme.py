"""The `scheme` argument of WeightInitCallback: what may be given, and which parameter it means."""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, get_args

from torch import Tensor, nn

from lightning_tuning.functional.import_path import imported
from lightning_tuning.functional.initialization import SchemeName

__all__ = ["Choice", "Scheme", "is_exact", "matches", "parse_scheme"]

Choice: TypeAlias = str | Callable[[Tensor], Any] | None
"""For one parameter: a :data:`SchemeName`, ``"auto"``, ``"lsuv"``, a function that fills it in place (or its dotted
import path), or leave it alone."""

Scheme: TypeAlias = Choice | Mapping[type[nn.Module] | str, Choice]

_NAMES = ("auto", "lsuv", *get_args(SchemeName))


def parse_scheme(scheme: Scheme) -> list[tuple[type[nn.Module] | str, Choice]]:
    """``scheme`` as pairs of a key and a choice, the first key that fits deciding.

    Raises:
        ValueError: for an unknown name (with the nearest known one), a key or a value of the wrong type, no key at all.
    """
    if scheme is None:
        raise ValueError(f"`scheme` must be one of {_NAMES}, a function or a dict, got None.")
    if not isinstance(scheme, Mapping):
        return [("*", _check_choice(scheme, "`scheme`"))]
    if not scheme:
        raise ValueError("`scheme` must have an entry, got an empty dict.")
    keys: Iterable[object] = scheme
    for key in keys:
        if not (isinstance(key, str) or (isinstance(key, type) and issubclass(key, nn.Module))):
            raise ValueError(f"The keys of `scheme` must be module types, their names or globs on names, got {key!r}.")
    return [(_type_or_glob(key), _check_choice(choice, f"`scheme[{key!r}]`")) for key, choice in scheme.items()]


def matches(key: type[nn.Module] | str, parameter: str, module: nn.Module) -> bool:
    """Whether ``key`` means the parameter of this dotted name, which ``module`` owns.

    A type means its own and derived layers. A string means layers of a class of that name, and whatever it matches as a
    glob: the parameter, the layer that owns it, or a module that contains the layer.
    """
    if isinstance(key, type):
        return isinstance(module, key)
    parts = parameter.split(".")
    paths = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return type(module).__name__ == key or any(fnmatch.fnmatchcase(path, key) for path in paths)


def is_exact(key: type[nn.Module] | str) -> bool:
    """Whether ``key`` singles something out: enough to fill, with a function, what is no weight of a known layer."""
    return isinstance(key, type) or key.strip("*?.") != ""


def _type_or_glob(key: type[nn.Module] | str) -> type[nn.Module] | str:
    """The module type that a dotted path such as ``"torch.nn.LSTM"`` means, as it is written in YAML; else ``key``.

    Only of what was imported already: the dotted name of a parameter must not import something.
    """
    if isinstance(key, str) and "." in key:
        home, _, name = key.rpartition(".")
        found = getattr(sys.modules.get(home), name, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    return key


def _check_choice(choice: object, argument: str) -> Any:
    if choice is None or callable(choice) or choice in _NAMES:
        return choice
    if isinstance(choice, str) and "." in choice and callable(found := imported(choice)):
        return found
    nearest = difflib.get_close_matches(choice.lower(), _NAMES, 1, 0.0) if isinstance(choice, str) else []
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"{argument} must be one of {_NAMES} or a function that fills a tensor in place, got {choice!r}.{hint}"
    )
