"""Writes in place, shared memory, and that nothing is kept alive."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.trace import Recorder


def record(work, x=None, module=None):
    """The graph of ``work(x)``, whose result is the loss."""
    x = torch.arange(12.0).reshape(3, 4) if x is None else x
    with Recorder(module or nn.Module(), x) as recorder:
        recorder.mark_loss(work(x))
    assert recorder.graph.blind == []
    return recorder.graph


def through_a_view(x):
    h = x + 0
    h[1].mul_(3)
    return h.sum()


def through_a_view_of_a_view(x):
    h = x + 0
    h[1:].t()[0].mul_(3)
    return h.sum()


def through_another_view(x):
    h = x + 0
    row, flat = h[0], h.view(-1)
    flat.mul_(3)
    return row.sum()


def through_the_base(x):
    h = x + 0
    row = h[0]
    h.mul_(3)
    return row.sum()


def through_detach(x):
    h = x + 0
    h.detach().mul_(3)
    return h.sum()


def through_data(x):
    h = x + 0
    h.data.mul_(3)
    return h.sum()


def by_operator(x):
    h = x + 0
    rows = h[:2]
    rows *= 3
    return h.sum()


@pytest.mark.parametrize(
    "work",
    [
        through_a_view,
        through_a_view_of_a_view,
        through_another_view,
        through_the_base,
        through_detach,
        through_data,
        by_operator,
    ],
)
def test_a_write_reaches_every_reader_of_its_memory(work):
    graph = record(work)
    (add,), (mul,), (total,) = graph.find("add"), graph.find("mul"), graph.find("sum")
    assert mul.inplace
    assert graph.reaches_loss(mul)
    assert mul.index in graph.upstream(total)
    assert add.index in graph.upstream(mul)
    assert graph.reaches_loss(add)


def test_who_read_before_the_write_does_not_depend_on_it():
    def work(x):
        h = x + 0
        early = h.exp()
        h.mul_(3)
        return early.sum()

    graph = record(work)
    (mul,) = graph.find("mul")
    assert not graph.reaches_loss(mul)


def test_disjoint_rows_stay_apart():
    def work(x):
        mine, other = torch.zeros(2, 4)
        mine.add_(x[0])
        other.add_(x[1].exp())
        return mine.sum()

    graph = record(work)
    first, second = graph.find("add")
    assert graph.reaches_loss(first)
    assert not graph.reaches_loss(second)
    assert not graph.reaches_loss(graph.find("exp")[0])


def test_rows_written_one_by_one_all_reach_the_reader():
    def work(x):
        out = torch.empty(3, 4)
        for row in range(3):
            out[row] = x[row].exp()
        return out.sum()

    graph = record(work)
    assert all(graph.reaches_loss(op) for op in graph.find("exp", "setitem"))
    assert len(graph.find("setitem")) == 3


def test_out_is_a_write():
    def work(x):
        out = torch.empty(4)
        torch.add(x[0], x[1], out=out)
        return out.sum()

    graph = record(work)
    (add,) = graph.find("add")
    assert (add.inplace, len(add.inputs), len(add.outputs)) == (True, 2, 1)
    assert graph.reaches_loss(add)


@pytest.mark.parametrize("overwrite", [torch.Tensor.zero_, lambda h: h.fill_(2.0), lambda h: h.copy_(torch.ones(3, 4))])
def test_what_was_overwritten_feeds_nobody(overwrite):
    def work(x):
        h = x.exp()
        overwrite(h)
        return h.sum()

    graph = record(work)
    assert not graph.reaches_loss(graph.find("exp")[0])


def test_swapped_data():
    def work(x):
        h = x + 0
        h.data = x.exp()
        return h.sum()

    graph = record(work)
    assert graph.reaches_loss(graph.find("exp")[0])
    assert not graph.reaches_loss(graph.find("add")[0])


def test_a_parameter_stays_one_whatever_is_written_into_it():
    net = nn.Linear(4, 2)

    def work(x):
        with torch.no_grad():
            net.weight.clamp_(-1, 1)
            net.bias.data[0] = 0.0
        return net(x).sum()

    graph = record(work, module=net)
    (clamp,), (linear,), (setitem,) = graph.find("clamp"), graph.find("linear"), graph.find("setitem")
    assert linear.parameters == ("weight", "bias")
    assert clamp.index in graph.upstream(linear)
    assert setitem.index in graph.upstream(linear)


def test_what_comes_back_untouched():
    net = nn.Linear(4, 4)

    def work(x):
        weight = net.weight.contiguous().to(torch.float32)
        h = F.linear(x, weight)
        return F.dropout(h, 0.0).sum() + F.dropout(x, training=False).sum()

    graph = record(work, module=net)
    linear, off, evaluating = graph.find("linear", "dropout")
    assert linear.parameters == ("weight",)
    assert graph.reaches_loss(off)
    assert graph.reaches_loss(evaluating)


def test_reused_addresses_are_not_confused():
    def work(x):
        total = x.sum()
        for _ in range(50):
            h = torch.zeros(3, 4)
            h.add_(1)
            del h
            fresh = torch.ones(3, 4)
            total = total + fresh.sum()
            del fresh
        return total

    graph = record(work)
    assert not any(graph.reaches_loss(op) for op in graph.find("add") if op.inplace)


def test_keeps_no_tensor_alive():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    x = torch.randn(3, 4)
    gc.disable()  # at once, not when the collector comes by
    try:
        with Recorder(net, x) as recorder:
            with torch.no_grad():
                h = net[0](x)
                view, (left, right) = h.view(-1), h.split(2, dim=1)
                h[0].mul_(2)
            dying = [weakref.ref(tensor) for tensor in (h, view, left, right)]
            del h, view, left, right
            assert [reference() for reference in dying] == [None] * 4
            loss = net(x).sum()
            recorder.mark_loss(loss)
            loss.backward()
            dying = weakref.ref(loss)
            del loss
            assert dying() is None
        batch = weakref.ref(x)
        del x
        assert batch() is None
    finally:
        gc.enable()


def test_custom_functions_keep_no_tensor_alive():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            inner = x + x
            dying.append(weakref.ref(inner))
            return inner * 1

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    dying = []
    gc.disable()
    try:
        x = torch.ones(2, requires_grad=True)
        with Recorder(nn.Module(), x) as recorder:
            out = Double.apply(x)
            assert dying[0]() is None
            dying.append(weakref.ref(out))
            recorder.mark_loss(out.sum())
            del out
            assert dying[1]() is None
    finally:
        gc.enable()
    assert [op.name for op in recorder.graph.ops] == ["Double", "sum"]
