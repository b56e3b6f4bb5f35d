"""An extension of griffe: docstrings as mkdocstrings is to see them."""

from __future__ import annotations

import re
from typing import Any

import griffe
from texts import without_roles

__all__ = ["Docstrings"]


class Docstrings(griffe.Extension):
    """Takes the roles of Sphinx out, and calls an example what griffe takes for a section with code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that has been read."""
        if obj.docstring is not None:
            text = without_roles(obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
