"""What ``lightning_tuning.functional`` holds, by the files that it comes from."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from texts import sentence

from lightning_tuning import functional

__all__ = ["functions"]


def functions() -> str:
    """A section for each file, with all of its public names; in the order of their titles."""
    homes: dict[str, dict[str, None]] = {}
    for name in functional.__all__:
        for kind in _with_bases(getattr(functional, name)):
            homes.setdefault(kind.__module__, {})[kind.__name__] = None
    return "\n".join(line for home in sorted(homes, key=_title) for line in _section(home, list(homes[home])))


def _section(home: str, names: list[str]) -> Iterator[str]:
    yield f"## {_title(home)}\n"
    yield sentence(" ".join((importlib.import_module(home).__doc__ or "").split("\n\n")[0].split())) + "\n"
    for name in names:  # by their full path: some are called as their file is
        yield f"::: {home}.{name}"
        yield "    options:"
        yield "      heading_level: 3"
        yield "      show_root_heading: true"
        yield "      show_root_full_path: false\n"


def _with_bases(value: Any) -> list[Any]:
    """``value``, after the classes of the library that it is a kind of."""
    kinds = inspect.getmro(value) if inspect.isclass(value) else [value]
    own = [kind for kind in kinds if kind.__module__.startswith(functional.__name__)]
    return [kind for kind in reversed(own) if not kind.__name__.startswith("_")]


def _title(home: str) -> str:
    return home.rpartition(".")[2].strip("_").replace("_", " ").capitalize()
