"""Objects from what the user writes: ``module:Class``, ``key=value``, and the configs of LightningCLI."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with Lightning

__all__ = ["UsageError", "build", "key_values", "load_config", "locate", "scalar"]


class UsageError(Exception):
    """What was asked for cannot be done; the message says why."""


def locate(path: str) -> Any:
    """The object at ``"module:Class"`` or ``"package.module.Class"``; modules of the current folder are found.

    So are those beside a config, once it is loaded: the script that it belongs to usually lies there.

    Raises:
        UsageError: if there is none.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    module_name, colon, names = path.partition(":")
    if not colon:
        module_name, _, names = path.rpartition(".")
    if not module_name or not names:
        raise UsageError(f"{path!r} names no class; write it as module:Class, as in train:LitNet.")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"{module_name!r} cannot be imported: {error}.") from error
        raise UsageError(f"no module {module_name!r} in {here} or on the path.") from error
    for name in names.split("."):
        if not hasattr(found, name):
            there = [n for n, value in vars(found).items() if inspect.isclass(value) and not n.startswith("_")]
            raise UsageError(f"{module_name!r} has no {name!r}; its classes: {', '.join(sorted(there)) or 'none'}.")
        found = getattr(found, name)
    return found


def key_values(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """``["lr=0.1"]`` as ``{"lr": 0.1}``; the values are YAML.

    Example:
        >>> key_values(["lr=1e-3", "sizes=[8, 8]", "name=adam"], "--arg")
        {'lr': 0.001, 'sizes': [8, 8], 'name': 'adam'}
    """
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"`{option}` must be key=value, got {pair!r}.")
        values[key] = scalar(text)
    return values


def load_config(path: str) -> dict[str, Any]:
    """The config at ``path``; that of a subcommand (``fit:``) is taken out of it.

    Modules beside it can be imported from now on, as they can for a script that lies there.

    Raises:
        UsageError: if there is no such file, or it is no mapping.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"the config {path!r} cannot be read: {error}") from error
    if isinstance(config, Mapping) and isinstance(config.get("fit"), Mapping):
        config = {**config, **config["fit"]}
    if not isinstance(config, Mapping):
        raise UsageError(f"the config {path!r} holds no mapping of `model`, `data` and `trainer`.")
    if (beside := str(Path(path).resolve().parent)) not in sys.path:
        sys.path.append(beside)
    return dict(config)


def build(target: Any, arguments: Mapping[str, Any], what: str) -> Any:
    """``target(**arguments)``, with what has a ``class_path`` among the arguments built first.

    Raises:
        UsageError: if an argument is missing or not known; whatever else the user's code raises comes through.
    """
    values = {key: _built(value) for key, value in arguments.items()}
    try:
        inspect.signature(target).bind(**values)
    except TypeError as error:
        raise UsageError(f"{what} {getattr(target, '__name__', target)!r}: {error}.") from error
    return target(**values)


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if isinstance(value.get("class_path"), str):
            return build(locate(value["class_path"]), value.get("init_args") or {}, "the class")
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_built(item) for item in value]
    return scalar(value) if isinstance(value, str) else value


def scalar(text: str) -> Any:
    """YAML, and the ``1e-3`` that YAML 1.1 takes for text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value) if any(sign.isdigit() for sign in value) else value
        except ValueError:
            return value
    return value
