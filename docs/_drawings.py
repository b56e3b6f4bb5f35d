"""Draws the pictures of ``how-it-works.md``; a test holds them against the import rule and against fresh ones.

All text stands on boxes of its own color, and arrows are of a middle grey: readable on light pages and on dark ones.

    python docs/_drawings.py
"""

# ruff: noqa: INP001  # a script beside the pages it draws for

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
WIDTH = 760
GREY = "#7d8894"
TOP, ACTS, LOOKS, KNOWS, TAKES, GROUND = "#37474f", "#a8431b", "#1459a8", "#5a3d9e", "#00695c", "#4a5a66"

FLOORS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (  # floor by floor: rooms, what they hold, a limit
    (TOP, (("cli", "rules, explain, check and all else on the command line", ""),)),
    (TOP, (("plugin", "in scripts that do not ask for it", ""),)),
    (TOP, (("suite", "the recommended set as one callback", ""),)),
    (
        LOOKS,
        (
            ("checks", "look once", "change nothing"),
            ("monitors", "watch each step", "change nothing"),
            ("recording", "keeps the run", "changes nothing"),
            ("guards", "step in", "as harm is near"),
            ("treatments", "train differently", "from the start"),
            ("mixins", "the same, inside", "of the module"),
        ),
    ),
    (
        KNOWS,
        (
            ("rules", "what is known: declarations and pure verdicts", "no Trainer, no Lightning"),
            ("runtime", "the desk that all callbacks of a Trainer share", "the base class of each"),
        ),
    ),
    (
        TAKES,
        (
            ("trace", "one step as a graph", "and a step run aside"),
            ("measure", "the numbers of a step", "taken once, and shared"),
            ("reporters", "for people and programs", "know only findings"),
        ),
    ),
    (
        GROUND,
        (
            ("findings", "what is said: rules, the catalogue, the journal", "no torch, no Lightning"),
            ("functional", "tensor in, tensor out", "torch alone; reads no value"),
        ),
    ),
)
COLORS = {"guards": ACTS, "treatments": ACTS, "mixins": ACTS}

STATIONS = (  # the life of a gradient norm: column, row, color, title, and lines parted by |
    (
        0,
        0,
        TAKES,
        "1 measured once",
        "on the device, as a callback|asks for it first (Meter);|reduced, not yet clipped",
    ),
    (
        1,
        0,
        TAKES,
        "2 landed later",
        "all numbers of a step travel|as one vector, while the|device goes on (Landing)",
    ),
    (2, 0, GROUND, "3 logged once", "tuning/grad_norm, by your own|logger, at log_every_n_steps"),
    (0, 1, ACTS, "6 acted upon", "a guard reads it before the|update, once for all guards:|skip, clip, go back, stop"),
    (1, 1, KNOWS, "4 judged", "a pure function of floats (rules),|with a memory that goes into|the checkpoint"),
    (2, 1, LOOKS, "5 said", "the journal selects, folds, and|holds it against how the run|goes; reporters show it"),
)
ARROWS = ((0, 1), (1, 2), (0, 3), (1, 4), (4, 5))


def picture(height: int, title: str, parts: Iterable[str]) -> str:
    """An SVG of :data:`WIDTH` times ``height``."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="Roboto, Helvetica, Arial, sans-serif">'
    )
    size = 'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"'
    tip = f'<defs><marker id="tip" {size} fill="{GREY}"><path d="M0 0 8 4 0 8z"/></marker></defs>'
    return "\n".join([head, f"<title>{escape(title)}</title>", tip, *parts, "</svg>", ""])


def box(name: str, corner: tuple[float, float], size: tuple[float, float], color: str, lines: Sequence[str]) -> str:
    """A box with a bold first line; one line alone stands beside the name."""
    (x, y), (width, height) = corner, size
    title, *others = (line for line in lines if line)
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    parts = [f'<rect {place} rx="6" fill="{color}" stroke="#ffffff40"/>']
    first = y + (height - 17 * len(others)) / 2 + 5
    parts.append(_text(x + width / 2, first, title, 'font-size="15" font-weight="bold"'))
    parts += [_text(x + width / 2, first + 18 * n, line, 'font-size="12"') for n, line in enumerate(others, 1)]
    return f'<g id="{escape(name)}">' + "".join(parts) + "</g>"


def arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From one point to the other."""
    (x1, y1), (x2, y2) = start, end
    line = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {line} stroke="{GREY}" stroke-width="2" marker-end="url(#tip)"/>'


def house() -> str:
    """The rooms of the package, each above all that it may import from."""
    parts, y, left = [], 4.0, 34.0
    for color, rooms in FLOORS:
        height = 32 if len(rooms) == 1 else 78
        width = (WIDTH - left - 4 + 8) / len(rooms) - 8
        for number, (name, holds, limit) in enumerate(rooms):
            lines = [f"{name}: {holds}"] if len(rooms) == 1 else [name, holds, limit]
            corner = left + number * (width + 8), y
            parts.append(box(name, corner, (width, height), COLORS.get(name, color), lines))
        y += height + 10
    turned = f'transform="translate(14 {y / 2:g}) rotate(-90)" font-size="13" fill="{GREY}" text-anchor="middle"'
    words = f"<text {turned}>imports point down</text>"
    return picture(round(y), "The rooms of the package", [arrow((24, 8), (24, y - 14)), words, *parts])


def gradient_norm() -> str:
    """Six stations, and who hands on to whom."""
    width, height, gap = 228.0, 96.0, 34.0
    corners = [(4 + column * (width + gap), 4 + row * (height + gap + 10)) for column, row, *_ in STATIONS]
    parts = []
    for start, end in ARROWS:
        (x1, y1), (x2, y2) = corners[start], corners[end]
        if y1 == y2:
            parts.append(arrow((x1 + width, y1 + height / 2), (x2 - 2, y2 + height / 2)))
        else:
            parts.append(arrow((x1 + width / 2, y1 + height), (x2 + width / 2, y2 - 2)))
    for corner, (_, _, color, title, lines) in zip(corners, STATIONS, strict=True):
        parts.append(box(title.split()[1], corner, (width, height), color, [title, *lines.split("|")]))
    return picture(round(corners[-1][1] + height + 4), "The life of one gradient norm", parts)


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {style} fill="#fff" text-anchor="middle">{escape(text)}</text>'


PICTURES = {"house.svg": house, "gradient-norm.svg": gradient_norm}

if __name__ == "__main__":
    for file, draw in PICTURES.items():
        (DOCS / file).write_text(draw(), encoding="utf-8")
