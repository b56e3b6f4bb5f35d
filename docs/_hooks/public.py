"""What the package makes public, found in ``lightning_tuning.__all__``, and which rules it speaks of."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

import lightning_tuning
import lightning_tuning.rules  # fills the catalogue
from lightning_tuning import CATALOGUE, Rule
from lightning_tuning.runtime import TuningCallback

__all__ = ["Public", "public", "rooms", "speakers", "title"]

FIRST_ROOMS = ("suite", "checks", "monitors", "guards", "treatments", "mixins")
"""In this order; rooms that are not named come after them."""

TITLES = {"suite": "Suite", "findings": "Findings", "measure": "Measures"}
"""Where the name of a room is not the title wanted."""


@dataclasses.dataclass(frozen=True)
class Public:
    """A public name of the package.

    Attributes:
        name: ``"NanLossGuard"``.
        value: what it names.
        home: dotted path of the module that it is defined in.
    """

    name: str
    value: Any
    home: str

    @property
    def room(self) -> str:
        """``"guards"``."""
        return self.home.split(".")[1]

    @property
    def is_attached(self) -> bool:
        """A callback or a mixin: it can speak of rules."""
        return inspect.isclass(self.value) and (issubclass(self.value, TuningCallback) or self.room == "mixins")

    @property
    def page(self) -> str:
        """The source of its page; it is served at ``callbacks/NanLossGuard/``."""
        return f"callbacks/{self.name}.md"

    @property
    def is_documented(self) -> bool:
        """Whether it has a docstring of its own; of a plain value its type has one."""
        return inspect.isclass(self.value) or inspect.isroutine(self.value)

    @property
    def _documented(self) -> Any:
        return self.value if self.is_documented else type(self.value)

    @property
    def identifier(self) -> str:
        """Where mkdocstrings finds its docstring."""
        if self.is_documented:
            return f"lightning_tuning.{self.name}"
        return f"{self.home}.{self._documented.__qualname__}"

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        text = inspect.getdoc(self._documented) or ""
        return " ".join(text.split("\n\n")[0].split())

    def members(self) -> list[str]:
        """Its documented members, without the hooks that Lightning calls."""
        if not inspect.isclass(self._documented):
            return []
        known = {*dir(pl.LightningModule), *dir(TuningCallback), *dir(pl.Callback)}
        return [
            name
            for name, member in vars(self._documented).items()
            if not name.startswith("_") and name not in known and inspect.getdoc(member) and callable_like(member)
        ]

    @functools.cached_property
    def rules(self) -> list[Rule]:
        """The rules that it speaks of: its docstring names them, and its code imports their declarations."""
        if not self.is_attached or self.room == "suite":
            return []
        named = set(_codes(inspect.getdoc(self.value) or ""))
        imported = {code for module in _known_to(self.home, self.room) for code in _declared(module)}
        return [rule for rule in CATALOGUE if rule.code in named & imported]


def callable_like(member: object) -> bool:
    """A method of any kind, or a property."""
    return callable(member) or isinstance(member, property | classmethod | staticmethod)


@functools.cache
def public() -> dict[str, Public]:
    """Everything in ``lightning_tuning.__all__`` by its name."""
    found = {}
    for name in lightning_tuning.__all__:
        value = getattr(lightning_tuning, name)
        home = value.__module__ if inspect.isclass(value) or inspect.isroutine(value) else type(value).__module__
        found[name] = Public(name, value, home)
    return found


def rooms() -> dict[str, list[Public]]:
    """Public names by room, those that act on a run first."""
    found: dict[str, list[Public]] = {room: [] for room in FIRST_ROOMS}
    for one in public().values():
        found.setdefault(one.room, []).append(one)
    return {room: names for room, names in found.items() if names}


def title(room: str) -> str:
    """Of a room, for people."""
    return TITLES.get(room, room.capitalize())


def speakers(rule: Rule) -> list[Public]:
    """Callbacks and mixins that speak of ``rule``."""
    return [one for one in public().values() if rule in one.rules]


def _codes(text: str) -> Iterator[str]:
    yield from re.findall(r"LT\d{3}", text)
    for first, last in re.findall(r"LT(\d{3})-LT(\d{3})", text):
        yield from (f"LT{number}" for number in range(int(first), int(last) + 1))


@functools.cache
def _known_to(home: str, room: str) -> frozenset[str]:
    """The modules of rules that ``home`` imports, itself or by private modules of its room."""
    below, found = (f"lightning_tuning.{room}._", "lightning_tuning.runtime._", "lightning_tuning.rules."), {home}
    waiting = [home]
    while waiting:
        for name in _imports(waiting.pop()):
            if name.startswith(below) and name not in found:
                found.add(name)
                waiting.append(name)
    return frozenset(name for name in found if name.startswith("lightning_tuning.rules."))


def _imports(module: str) -> Iterator[str]:
    source = Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning_tuning."):
            yield str(node.module)


def _declared(module: str) -> Iterator[str]:
    yield from (value.code for value in vars(importlib.import_module(module)).values() if isinstance(value, Rule))
