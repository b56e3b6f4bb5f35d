from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tuning.trace import Graph, Op, Value


def value(index, producer=None, kind="intermediate", name=None):
    return Value(index, kind, name, (2,), torch.float32, torch.device("cpu"), requires_grad=True, producer=producer)


def op(index, inputs, outputs, name="add", module="", **more):
    return Op(index, name, module, "Net", f"net.py:{index}", tuple(inputs), tuple(outputs), **more)


@st.composite
def graphs(draw):
    """Random steps: each operation reads any values that are there and makes none, one or two."""
    values = [value(index, kind="batch") for index in range(draw(st.integers(0, 3)))]
    ops = []
    for index in range(draw(st.integers(0, 12))):
        there = [value.index for value in values]
        inputs = draw(st.lists(st.sampled_from(there), max_size=3)) if there else []
        made = [value(len(values) + number, index) for number in range(draw(st.integers(0, 2)))]
        values += made
        ops.append(op(index, inputs, [value.index for value in made], name=draw(st.sampled_from(["add", "relu"]))))
    losses = draw(st.lists(st.sampled_from(range(len(values))), max_size=2, unique=True)) if values else []
    return Graph(ops, values, losses)


def paths_between(graph):
    """The naive oracle: which operation leads to which, by repeated squaring of the edges' relation."""
    edges = {(a.index, b.index) for a in graph.ops for b in graph.ops if set(a.outputs) & set(b.inputs)}
    closure = set(edges)
    while True:
        longer = closure | {(a, d) for a, b in closure for c, d in closure if b == c}
        if longer == closure:
            return edges, closure
        closure = longer


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_queries_agree_with_the_naive_oracle(graph):
    edges, closure = paths_between(graph)
    made_by = {made: op.index for op in graph.ops for made in op.outputs}
    ending = {made_by[loss] for loss in graph.losses if loss in made_by}
    feeding = ending | {a for a, b in closure if b in ending}
    for node in graph.ops:
        assert [other.index for other in graph.parents(node)] == sorted(a for a, b in edges if b == node.index)
        assert [other.index for other in graph.children(node)] == sorted(b for a, b in edges if a == node.index)
        assert graph.upstream(node) == {a for a, b in closure if b == node.index}
        assert graph.downstream(node) == {b for a, b in closure if a == node.index}
        assert graph.upstream(node.index) == graph.upstream(node)
        assert graph.reaches_loss(node) == (node.index in feeding)
    for item in graph.values:
        readers = [node.index for node in graph.ops if item.index in node.inputs]
        assert [node.index for node in graph.consumers(item)] == readers
        maker = graph.producer(item)
        assert (None if maker is None else maker.index) == made_by.get(item.index)
        assert graph.upstream(item) == ({maker.index} | graph.upstream(maker) if maker else set())
        assert graph.downstream(item) == set(readers) | {b for a, b in closure if a in readers}
        assert graph.reaches_loss(item) == (item.index in graph.losses or bool(feeding & set(readers)))


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_walls_stop_a_walk_but_are_seen(graph):
    def naive(start, step):
        seen, waiting = set(), list(step(start))
        while waiting:
            node = waiting.pop()
            if node.index not in seen:
                seen.add(node.index)
                waiting += step(node) if node.name == "relu" else []
        return seen

    for node in graph.ops:
        assert graph.downstream(node, through=lambda op: op.name == "relu") == naive(node, graph.children)
        assert graph.upstream(node, through=lambda op: op.name == "relu") == naive(node, graph.parents)


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_survives_pickle_and_json(graph):
    graph.reaches_loss(0) if graph.ops else None  # fills the caches, which are not pickled
    again = pickle.loads(pickle.dumps(graph))
    assert again == graph
    assert json.loads(json.dumps(graph.to_dict(), allow_nan=False)) == graph.to_dict()


@pytest.fixture
def small():
    values = [
        value(0, kind="batch", name="batch"),
        value(1, kind="parameter", name="a.weight"),
        value(2, 0),
        value(3, 1),
    ]
    values += [value(4, 2), value(5, 3)]
    ops = [
        op(0, [0, 1], [2], "linear", "a", parameters=("a.weight",)),
        op(1, [2], [3], "dropout", "a.drop", arguments={"p": 0.5, "scale": float("inf"), "sizes": (1, 2)}),
        op(2, [3], [4], "sum"),
        op(3, [2], [5], "detach", "ab"),
    ]
    return Graph(ops, values, [4], ["Something was not seen."])


def test_find(small):
    def names(*args, **kwargs):
        return [node.name for node in small.find(*args, **kwargs)]

    assert names() == ["linear", "dropout", "sum", "detach"]
    assert names("sum", "linear") == ["linear", "sum"]
    assert names(module="a") == ["linear", "dropout"]  # not "ab"
    assert names(module="") == names()
    assert names(feeding=False) == ["detach"]
    assert names("detach", feeding=True) == []
    assert names(where=lambda node: bool(node.parameters)) == ["linear"]


def test_numbers_that_json_lacks_become_text(small):
    assert small.to_dict()["ops"][1]["arguments"] == {"p": 0.5, "scale": "inf", "sizes": [1, 2]}


def test_summary_is_for_people(small):
    text = small.summary().splitlines()
    assert text[0] == repr(small) == "Graph(4 ops, 6 values, 1 losses, 1 blind)"
    assert text[2].split() == ["1", "dropout", "<-", "0", "a.drop:", "Net", "net.py:1"]
    assert text[-1] == "blind here: Something was not seen."


def test_an_empty_graph_answers():
    graph = Graph(blind=["Nothing was seen."])
    assert (len(graph), list(graph), graph.find(), graph.losses) == (0, [], [], [])
    assert graph.to_dict() == {"ops": [], "values": [], "losses": [], "blind": ["Nothing was seen."]}


def test_ops_can_be_keys(small):
    assert len({*small.ops, *small.ops}) == 4
