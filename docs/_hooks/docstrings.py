"""An extension of griffe: docstrings as mkdocstrings is to see them."""

from __future__ import annotations

import re
from typing import Any

import griffe
from texts import without_sphinx

__all__ = ["Docstrings"]

_SOURCE = re.compile(r"^Source:.*(?:\n[ ]+\S.*)*", re.MULTILINE)  # over several lines griffe takes it for an admonition


class Docstrings(griffe.Extension):
    """Takes the roles and tables of Sphinx out, and calls an example what griffe takes for a section with code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that has been read."""
        if obj.docstring is not None:
            text = without_sphinx(obj.docstring.value)
            text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
            obj.docstring.value = _SOURCE.sub(lambda source: " ".join(source[0].split()), text)
