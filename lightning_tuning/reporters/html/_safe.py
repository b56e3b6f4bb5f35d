"""Data and code inside a page, so that no text can end the element it stands in."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from markupsafe import Markup

__all__ = ["digest", "json_text", "script_text", "shown"]

_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&'\u2028\u2029"}


_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the order of what follows them, and halves of pairs, which no file can hold."""


def shown(value: object) -> object:
    r"""A text with what cannot be seen in it written out, and so the texts in lists and dictionaries; else as it is.

    Example:
        >>> print(shown("net\u202e.0"))
        net\u202e.0
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSEEN.sub(lambda sign: ascii(sign.group())[1:-1], value)
    if isinstance(value, dict):
        return {key: shown(entry) for key, entry in value.items()}
    return [shown(entry) for entry in value] if isinstance(value, list) else value


def json_text(value: object) -> Markup:
    r"""``value`` as JSON that can stand in a ``<script>``: no sign in it means anything to HTML, and all can be seen.

    Raises:
        ValueError: for a float that is not finite: JSON has none, and a browser would refuse the whole text.

    Example:
        >>> print(json_text({"name": "</script><b>"}))
        {"name":"\u003c/script\u003e\u003cb\u003e"}
    """
    return Markup(json.dumps(shown(value), allow_nan=False, separators=(",", ":")).translate(_UNSAFE))  # noqa: S704  # just made safe


def script_text(code: str) -> Markup:
    r"""Our own ``code``, for a ``<script>`` or ``<style>``: what would end the element is written another way.

    Example:
        >>> print(script_text("x = '</script>'"))
        x = '<\/script>'
    """
    return Markup(re.sub(r"<(?=/(?:script|style)|!--)", r"<\\", code, flags=re.IGNORECASE))  # noqa: S704  # it is ours


def digest(code: str) -> str:
    """The hash by which a page's policy allows this script and no other.

    Example:
        >>> digest("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
