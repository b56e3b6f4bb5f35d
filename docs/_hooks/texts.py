"""Texts of the code, as Markdown."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from tables import with_tables

__all__ = ["as_markdown", "fenced", "indented", "sentence", "without_sphinx"]

_ROLE = re.compile(r":(?:class|meth|func|attr|data|mod|exc|ref):`~?([^`]+)`")
_MATH = re.compile(r":math:`([^`]+)`")
_MATH_BLOCK = re.compile(r"^\.\. math:: (.*(?:\n[ ]+\S.*)*)", re.MULTILINE)
_AS_IT_IS = re.compile(r"(``.+?``|`[^`]+`|<math.+?</math>)", re.DOTALL)
_SPECIAL = re.compile(r"(?<!\w)(\*\w[\w ]*\*)(?!\w)|([*_\[\]#|])")  # an emphasized word, or what is literal


def without_sphinx(docstring: str) -> str:
    """Roles, :class:`Trainer` and its like, as code; formulas as MathML, which browsers draw by nature; and tables."""
    text = with_tables(docstring)
    text = _MATH_BLOCK.sub(lambda found: convert(" ".join(found[1].split()), display="block"), text)
    return _ROLE.sub(r"`\1`", _MATH.sub(lambda found: convert(found[1]), text))


def as_markdown(text: str) -> str:
    """A text of the code with its backticks and formulas, everything else taken literally."""
    parts = _AS_IT_IS.split(without_sphinx(text))
    return "".join(part if i % 2 else _literal(part) for i, part in enumerate(parts))


def _literal(text: str) -> str:
    return _SPECIAL.sub(lambda found: found[1] or f"\\{found[2]}", html.escape(text, quote=False))


def fenced(text: str, language: str = "python", title: str = "", *, is_searched: bool = True) -> str:
    """``text`` as a block of code."""
    options = [f".{language}"]
    if title:
        options.append(f'title="{title}"')
    if not is_searched:
        options.append("data-search-exclude")
    return f"``` {{ {' '.join(options)} }}\n{text.strip(chr(10))}\n```\n"


def sentence(text: str) -> str:
    """``text`` as Markdown that begins with a capital letter, unless it begins with code or a name in mixed case."""
    first = text.split(" ", 1)[0]
    return as_markdown(text[:1].upper() + text[1:] if re.fullmatch(r"[a-z]+[:,;.]?", first) else text)


def indented(text: str) -> str:
    """``text`` as the inside of a block of Markdown."""
    return re.sub(r"^(?=.)", "    ", text, flags=re.MULTILINE)
