"""Globs on the dotted names of modules."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

__all__ = ["matches_any", "parse_globs", "select_modules"]


def parse_globs(argument: str, globs: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """``globs`` as a tuple; one string is one glob.

    Raises:
        ValueError: for anything but strings.
    """
    if globs is None:
        return None
    patterns: tuple[Any, ...] = (globs,) if isinstance(globs, str) else tuple(globs)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"`{argument}` must hold globs on dotted names, got {pattern!r}.")
    return patterns


def matches_any(name: str, globs: Iterable[str]) -> bool:
    """Whether one of ``globs`` means the module of this dotted name, or a module that contains it.

    Example:
        >>> matches_any("net.block.norm", ["net.block"]), matches_any("net.block.norm", ["*.norm2"])
        (True, False)
    """
    parts = name.split(".")
    outwards = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(path, glob) for glob in globs for path in outwards)


def select_modules(
    module: nn.Module,
    wanted: Callable[[nn.Module], bool],
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    *,
    what: str = "module",
    argument: str = "include",
) -> dict[str, nn.Module]:
    """The modules in ``module`` that are ``wanted``, by dotted name; one that stands at two places has two names.

    Args:
        module: where to look, itself included under the name ``""``.
        wanted: true for the kind that is looked for.
        include: globs: only these, and what is inside of them. Default ``None``: all.
        exclude: globs: not these, nor what is inside of them.
        what: the kind in words, for the message.
        argument: what the caller calls ``include``, for the message.

    Raises:
        ValueError: for globs that are no strings, and for a glob that means none of what is wanted, with the names
            that there are.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.Dropout()))
        >>> [*select_modules(net, lambda part: isinstance(part, nn.Dropout), exclude="2")]
        ['1']
    """
    found = {name: part for name, part in module.named_modules(remove_duplicate=False) if wanted(part)}
    included, excluded = parse_globs(argument, include), parse_globs("exclude", exclude) or ()
    for name_of_it, globs in ((argument, included or ()), ("exclude", excluded)):
        for glob in globs:
            if not any(matches_any(name, [glob]) for name in found):
                there = ", ".join(found) or "none"
                raise ValueError(f"`{name_of_it}` must mean a {what}, got {glob!r}; there are: {there}.")
    return {
        name: part
        for name, part in found.items()
        if (included is None or matches_any(name, included)) and not matches_any(name, excluded)
    }
