"""Links from every mention: a rule's code, and a callback's name in code, lead to their pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

__all__ = ["linked"]

_TAG = re.compile(r"(<!--.*?-->|<[^>]+>)", re.DOTALL)
_CODE = re.compile(r"\bLT\d{3}\b")
_CLOSED = frozenset({"a", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "script", "style", "svg", "button", "label"})


def linked(page: str, targets: Mapping[str, str], url: Callable[[str], str]) -> str:
    """``page`` with links from the names in ``targets`` to ``url`` of what they lead to.

    Args:
        page: its HTML.
        targets: addresses by code (``"LT601"``) and by name (``"NanLossGuard"``).
        url: of an address, seen from the page.
    """
    return "".join(_pieces(page, targets, url))


def _pieces(page: str, targets: Mapping[str, str], url: Callable[[str], str]) -> Iterator[str]:
    open_tags: list[str] = []
    for piece in _TAG.split(page):
        if tag := re.match(r"<(/?)(\w+)", piece):
            name = tag[2].lower()
            if name in _CLOSED or name == "code":
                if not tag[1]:
                    open_tags.append(name)
                elif name in open_tags:
                    del open_tags[len(open_tags) - 1 - open_tags[::-1].index(name) :]
            yield piece
        elif _CLOSED & set(open_tags) or not piece.strip():
            yield piece
        elif "code" in open_tags:
            yield _link(piece, piece, targets, url)
        else:
            yield _CODE.sub(lambda code: _link(code[0], code[0], targets, url), piece)


def _link(name: str, text: str, targets: Mapping[str, str], url: Callable[[str], str]) -> str:
    return f'<a href="{url(targets[name])}">{text}</a>' if name in targets else text
