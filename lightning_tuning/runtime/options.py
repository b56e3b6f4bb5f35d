"""Arguments of callbacks, as somebody wrote them into a file."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_tuning.findings import CATALOGUE, UnknownRuleError
from lightning_tuning.runtime.callback import TuningCallback

__all__ = ["make_with_options"]

Options = Mapping[str, Mapping[str, Any]]


def make_with_options(
    members: Iterable[tuple[type[TuningCallback], Mapping[str, Any]]],
    options: Options | None,
    thresholds: Options | None = None,
) -> list[TuningCallback]:
    """An instance of each of ``members``, with its own arguments and those that it is given here.

    Args:
        members: classes, with arguments.
        options: arguments by the name of a class.
        thresholds: arguments by the code or name of the rule that they decide on, ``{"LT601": {"ratio": 20}}``; which
            they are say the classes in their ``thresholds``.

    Raises:
        ValueError: naming the class, rule or argument that is not known, with the nearest that is; what is set in both
            ways; and whatever a class refuses, with its name before it.
    """
    classes = list(members)
    names = [kind.__name__ for kind, _ in classes]
    options = options or {}
    for name, arguments in options.items():
        if name not in names:
            raise ValueError(f"`options` has {name!r}, which is no member of the suite.{_hint(name, names)}")
        if not isinstance(arguments, Mapping):
            raise ValueError(f"`options[{name!r}]` must be a table of arguments, got {arguments!r}.")
    known = [(code, argument, kind.__name__) for kind, _ in classes for code, argument in kind.thresholds]
    options = _with_thresholds(options, thresholds or {}, known)
    return [_made(kind, {**own, **options.get(kind.__name__, {})}) for kind, own in classes]


def _with_thresholds(options: Options, thresholds: Options, known: list[tuple[str, str, str]]) -> Options:
    """``options`` and, as such, ``thresholds``; ``known`` are codes, arguments and names of classes."""
    merged = dict(options)
    for name, given in thresholds.items():
        rule = _code(name)
        takers = {argument: kind for code, argument, kind in known if code == rule}
        if not takers:
            some = ", ".join(sorted({code for code, _, _ in known}))
            raise ValueError(f"`thresholds` has {name!r}, whose threshold cannot be set. Those that can: {some}.")
        if not isinstance(given, Mapping):
            raise ValueError(f"`thresholds[{name!r}]` must be a table of {', '.join(takers)}, got {given!r}.")
        for argument, value in given.items():
            if argument not in takers:
                hint = _hint(argument, list(takers))
                raise ValueError(f"`thresholds[{name!r}]` has {argument!r}, which is no threshold of it.{hint}")
            kind = takers[argument]
            if argument in merged.get(kind, {}):
                raise ValueError(f"{kind}.{argument} is set twice: in `options` and in `thresholds[{name!r}]`.")
            merged[kind] = {**merged.get(kind, {}), argument: value}
    return merged


def _code(name: str) -> str:
    try:
        return CATALOGUE[name].code
    except UnknownRuleError as error:
        raise ValueError(f"`thresholds` has {name!r}. {error}") from None


def _made(kind: type[TuningCallback], arguments: Mapping[str, Any]) -> TuningCallback:
    known = list(inspect.signature(kind).parameters)
    for name in arguments:
        if name not in known:
            raise ValueError(f"`options` has {kind.__name__}.{name}, which is no argument of it.{_hint(name, known)}")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"`options[{kind.__name__!r}]`: {error}") from error


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(known) or 'none'}."
