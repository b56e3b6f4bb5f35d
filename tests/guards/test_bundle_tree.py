"""Batches of every kind, through a file that ``weights_only`` reads and back; and what is not made on a file's word."""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
from collections import OrderedDict, UserDict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lightning_tuning.guards.bundle._tree import pack, unpack
from tests.guards.faulty import same

MADE: list[str] = []
"""Names of classes whose constructor ran."""


class Pair(NamedTuple):
    x: Tensor
    name: str


@dataclasses.dataclass(frozen=True)
class Sample:
    image: Tensor
    label: int = 3

    def __post_init__(self) -> None:
        MADE.append("Sample")


@dataclasses.dataclass
class Slotted:
    __slots__ = ("x",)
    x: Tensor


class Encoding(UserDict):  # type: ignore[type-arg]
    def __init__(self, data: Any, lengths: list[int]) -> None:
        super().__init__(data)
        self.lengths = lengths
        MADE.append("Encoding")


class Output(OrderedDict):  # type: ignore[type-arg]
    def __setitem__(self, key: str, value: Any) -> None:
        MADE.append("Output")
        super().__setitem__(key, value)


class Graph:
    def __init__(self, x: Tensor) -> None:
        self.x, self.edges = x, [(0, 1)]
        MADE.append("Graph")


class Trap:
    def __init__(self, x: int) -> None:
        self.x = x

    def __del__(self) -> None:
        MADE.append("Trap deleted")


class Colour(enum.IntEnum):
    RED = 1


class Marked(Tensor):
    pass


def through_file(value: Any) -> tuple[Any, list[str]]:
    """What comes back from a file, and what was noted."""
    lost: list[str] = []
    torch.save(pack(value, "batch", lost), "batch.pt")
    packed = torch.load("batch.pt", weights_only=True)
    return unpack(packed, lost=lost), lost


X = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "value",
    [
        X,
        [X, (X, "text", None, True, 2**70, 1.5, 2j, b"bytes")],
        {"x": X, 3: [1], (1, "a"): {"deep": {"deeper": X.bool()}}},
        {"half": X.half(), "bf16": X.bfloat16(), "double": X.double(), "int8": X.to(torch.int8), "cf": X.cfloat()},
        {"dtype": torch.float16, "device": torch.device("cuda:1"), "size": torch.Size([2, 3])},
        OrderedDict(b=X, a=1),
        [],
        {},
        (),
        torch.zeros(0, 3),
        torch.tensor(float("nan")).nan_to_num(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_containers_are_shown_by_torch_load_alone(value: Any) -> None:
    back, lost = through_file(value)
    assert same(back, value)
    assert lost == []
    if not isinstance(value, OrderedDict):
        assert same(torch.load("batch.pt", weights_only=True), value)


def test_special_containers_come_back_as_what_they_were() -> None:
    value = {
        "pair": Pair(X, "a"),
        "sample": Sample(X),
        "slotted": Slotted(X),
        "encoding": Encoding({"ids": X}, [3]),
        "output": Output(x=X),
        "graph": Graph(X),
        "deque": deque([1, 2]),
        "set": {1, 2},
        "frozen": frozenset("ab"),
        "counter": collections.Counter("aab"),
        "packed": pack_sequence([torch.ones(3), torch.ones(2)]),
    }
    MADE.clear()
    back, lost = through_file(value)
    assert MADE == []  # no constructor ran, and no method of theirs
    assert {key: type(item) for key, item in back.items() if key != "counter"} == {
        key: type(item) for key, item in value.items() if key != "counter"
    }
    assert back["pair"].name == "a"
    assert torch.equal(back["sample"].image, X)
    assert back["sample"].label == 3
    assert torch.equal(back["slotted"].x, X)
    assert torch.equal(back["encoding"]["ids"], X)
    assert back["encoding"].lengths == [3]
    assert torch.equal(back["output"]["x"], X)
    assert back["graph"].edges == [(0, 1)]
    assert (back["deque"], back["set"], back["frozen"]) == (value["deque"], value["set"], value["frozen"])
    assert isinstance(back["packed"], PackedSequence)
    assert torch.equal(back["packed"].batch_sizes, torch.tensor([2, 2, 1]))
    assert back["counter"] == {"a": 2, "b": 1}
    assert lost == ["collections:Counter is not known here: a dict stands in for it"]


def test_arrays_of_numpy() -> None:
    value = [np.arange(4, dtype=np.int16).reshape(2, 2), np.float32(2.5), np.array(3), np.zeros((2, 2)).T, np.bool_(1)]
    back, lost = through_file(value)
    assert lost == []
    for one, other in zip(back, value, strict=True):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_what_is_kept_as_something_else_is_said() -> None:
    back, lost = through_file([Colour.RED, X.as_subclass(Marked), np.str_("text")])
    assert (back[0], type(back[0])) == (1, int)
    assert (back[2], type(back[2])) == ("text", str)
    assert type(back[1]) is Tensor
    assert lost == ["batch[1]: a Marked was kept as a plain tensor"]


def test_what_cannot_be_kept_is_named_by_its_path() -> None:
    cyclic: list[Any] = [X]
    cyclic += [cyclic, cyclic]
    odd = {
        "f": print,
        "module": torch.nn.Linear(1, 1),
        "words": np.array(["a", "b"]),
        "open": object(),
        "meta": torch.zeros(2, device="meta"),
        "class": Graph,
        "kept": 1,
        X: 1,
    }
    back, lost = through_file({"odd": odd, "cyclic": cyclic})
    assert back["odd"] == {**dict.fromkeys(("f", "module", "words", "open", "meta", "class")), "kept": 1}
    assert torch.equal(back["cyclic"][0], X)
    assert back["cyclic"][1:] == [None, None]
    for path in ("['f']", "['module']", "['words']", "['open']", "['meta']", "['class']"):
        assert any(line.startswith(f"batch['odd']{path}: ") and line.endswith("left out") for line in lost), path
    assert any("an entry with such a key was left out" in line for line in lost)
    assert "batch['cyclic'][2]: a list was left out, part of itself" in lost


def test_depth_is_bounded() -> None:
    deep: Any = X
    for _ in range(2000):
        deep = [deep]
    _, lost = through_file(deep)
    assert len(lost) == 1
    assert lost[0].endswith("a list was left out, nested too deeply")


def test_a_view_does_not_bring_its_storage() -> None:
    torch.save(pack(torch.zeros(1_000_000)[:3], "batch", []), "batch.pt")
    assert Path("batch.pt").stat().st_size < 10_000


def test_leaves_that_want_gradients_still_do() -> None:
    leaf = torch.ones(2, requires_grad=True)
    back, _ = through_file([leaf, leaf * 2])
    assert [tensor.requires_grad for tensor in back] == [True, False]


def test_nothing_is_kept_alive_or_changed() -> None:
    x = torch.ones(3)
    packed = pack({"x": x}, "batch", [])
    packed["x"].zero_()
    assert x.sum() == 3


@pytest.mark.parametrize(
    ("path", "attributes"),
    [
        (f"{__name__}:Trap", {"x": 1}),
        ("tempfile:_TemporaryFileCloser", {"name": "victim", "delete": True, "close_called": False}),
        ("subprocess:Popen", {"args": "touch executed"}),
        ("antigravity:X", {}),
        ("builtins:eval", {"x": "1"}),
        ("nowhere:Class.<locals>.Inner", {"x": 1}),
        ("", {"x": 1}),
    ],
)
def test_a_files_word_makes_nothing_that_acts(path: str, attributes: dict[str, Any]) -> None:
    MADE.clear()
    Path("victim").touch()
    lost: list[str] = []
    made = unpack({"__lightning_tuning__": "object", "class": path, "attributes": attributes}, lost=lost)
    assert type(made) is SimpleNamespace
    assert vars(made) == attributes
    assert len(lost) == 1
    del made
    assert MADE == []
    assert Path("victim").exists()
    assert "antigravity" not in sys.modules


def test_classes_of_a_script_are_found_in_the_module_named() -> None:
    packed = {"__lightning_tuning__": "object", "class": "__main__:Graph", "attributes": {"x": X}}
    assert type(unpack(packed, home=__name__)) is Graph
    assert type(unpack(packed)) is not Graph
    pair = {"__lightning_tuning__": "named tuple", "class": "__main__:Gone", "fields": ("x", "y"), "items": [1, 2]}
    assert unpack(pair, home=__name__)._asdict() == {"x": 1, "y": 2}
