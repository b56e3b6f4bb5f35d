"""Arguments of callbacks, as somebody wrote them into a file."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_tuning.runtime.callback import TuningCallback

__all__ = ["make_with_options"]


def make_with_options(
    members: Iterable[tuple[type[TuningCallback], Mapping[str, Any]]], options: Mapping[str, Mapping[str, Any]] | None
) -> list[TuningCallback]:
    """An instance of each of ``members``, with its own arguments and those that ``options`` give its class.

    Args:
        members: classes, with arguments.
        options: arguments by the name of a class.

    Raises:
        ValueError: naming the class or argument that is not known, with the nearest that is; and whatever a class
            refuses, with its name before it.
    """
    classes = list(members)
    names = [kind.__name__ for kind, _ in classes]
    options = options or {}
    for name, arguments in options.items():
        if name not in names:
            raise ValueError(f"`options` has {name!r}, which is no member of the suite.{_hint(name, names)}")
        if not isinstance(arguments, Mapping):
            raise ValueError(f"`options[{name!r}]` must be a table of arguments, got {arguments!r}.")
    return [_made(kind, {**own, **options.get(kind.__name__, {})}) for kind, own in classes]


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
