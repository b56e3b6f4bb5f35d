"""Numbers and counts as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime

__all__ = [
    "NONE",
    "TIMES",
    "clip",
    "compact",
    "duration",
    "listed",
    "number",
    "parts",
    "plural",
    "shortened",
    "span",
    "when",
]

NONE, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
LONGEST = 1_000
"""Characters of a text that are shown: a sentence that is longer is a file that came in by mistake."""


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count in words.

    Example:
        >>> plural(1, "step"), plural(12_000, "step"), plural(2, "batch", "batches")
        ('1 step', '12,000 steps', '2 batches')
    """
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def number(value: object) -> str:
    """A number with the digits that tell something; any other value as its text.

    Example:
        >>> [number(value) for value in (0.00012345, 10234.5, 1234567, 3.0, float("nan"), 8.25e-7, "ce")]
        ['0.0001234', '10,234', '1,234,567', '3', 'nan', '8.25e-07', 'ce']
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return clip(str(value))
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}" if abs(value) < 1e15 else f"{float(value):.4g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.4g}"


def compact(count: int) -> str:
    """A large count in few letters.

    Example:
        >>> compact(999), compact(16_512), compact(3_302_400)
        ('999', '17k', '3.3M')
    """
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2g}{letter}" if count < 100 * size else f"{count // size}{letter}"
    return str(count)


def clip(text: str, longest: int = LONGEST) -> str:
    """``text``, or its beginning and how much more there was.

    Example:
        >>> clip("abcdef", 3)
        'abc… (3 characters more)'
    """
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} characters more)"


def shortened(text: str, most: int) -> str:
    """``text`` in ``most`` characters, cut in its midst: of a path both ends tell most.

    Example:
        >>> shortened("encoder.layers.0.self_attn.out_proj", 21)
        'encoder.la…n.out_proj'
    """
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def span(first: int, last: int | None = None) -> str:
    """One step, or from where to where.

    Example:
        >>> span(7), span(7, 7), span(0, 1200)
        ('step 7', 'step 7', 'steps 0–1,200')
    """
    return f"step {first:,}" if last in (None, first) else f"steps {first:,}{NONE}{last:,}"


def duration(seconds: float | None) -> str:
    """A time as a clock would not say it.

    Example:
        >>> [duration(value) for value in (0.25, 42.4, 690.0, 7_300.0, None)]
        ['0.25 s', '42 s', '11 min 30 s', '2 h 1 min', '']
    """
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return ""
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def when(text: object) -> datetime | None:
    """The time that an ISO 8601 text says; ``None`` of any other value.

    Example:
        >>> when("2026-03-01T09:30:00+00:00").hour, when("yesterday")
        (9, None)
    """
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None


def listed(words: Sequence[str], most: int = 5) -> str:
    """The first few and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2), listed(["a", "b"])
        ('a, b and 1 more', 'a, b')
    """
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more:,} more" if more > 0 else "")


def parts(text: str) -> list[tuple[str, bool]]:
    """A sentence in pieces, and of each whether it is code: what stands between backticks.

    Example:
        >>> parts("take `lr=0.1` then")
        [('take ', False), ('lr=0.1', True), (' then', False)]
    """
    pieces = re.split(r"`([^`]+)`", clip(text))
    return [(piece, bool(index % 2)) for index, piece in enumerate(pieces) if piece]
