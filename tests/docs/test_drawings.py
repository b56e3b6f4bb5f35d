"""The pictures of ``docs/`` show the house as it is built."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.test_architecture import BELOW

DOCS = Path(__file__).parents[2] / "docs"
DRAWINGS = runpy.run_path(str(DOCS / "_drawings.py"))
SVG = "{http://www.w3.org/2000/svg}"


def boxes(name: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each box of a picture."""
    found = {}
    for group in ET.parse(DOCS / name).iter(f"{SVG}g"):
        x, y, width, height = (float(group.find(f"{SVG}rect").get(side)) for side in ("x", "y", "width", "height"))
        found[group.get("id")] = (x, y, x + width, y + height)
    return found


@pytest.mark.parametrize("name", DRAWINGS["PICTURES"])
def test_a_picture_is_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == DRAWINGS["PICTURES"][name](), "`python docs/_drawings.py`"


def test_every_room_stands_above_what_it_imports() -> None:
    rooms = boxes("house.svg")
    assert set(BELOW) - {"__init__"} - set(rooms) == set(), "a room that is not drawn"
    for room in set(BELOW) - {"__init__"}:
        for lower in BELOW[room] - {room}:
            assert rooms[room][3] < rooms[lower][1], f"{room} must stand above {lower}"


@pytest.mark.parametrize("name", DRAWINGS["PICTURES"])
def test_boxes_stand_apart_and_hold_their_text(name: str) -> None:
    root = ET.parse(DOCS / name).getroot()
    _, _, width, height = (float(number) for number in root.get("viewBox").split())
    drawn = list(boxes(name).values())
    for number, (left, top, right, bottom) in enumerate(drawn):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        for other in drawn[number + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    for group in root.iter(f"{SVG}g"):
        room = float(group.find(f"{SVG}rect").get("width"))
        for text in group.iter(f"{SVG}text"):
            of_a_letter = 0.55 * float(text.get("font-size"))  # on the average, in a wide font as DejaVu Sans
            assert len(text.text) * of_a_letter < room, text.text
