from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lightning_tuning.trace import Recorder, why_not_live
from tests.trace.nets import compiled, told


def record(work, *batch, module=None):
    with Recorder(module or nn.Module(), batch) as recorder:
        recorder.mark_loss(work(*batch))
    return recorder.graph


def names(graph):
    return [op.name for op in graph.ops]


# --- where: modules and source lines ---------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(2, 2)
        self.block = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), self.shared)
        self.hidden = [nn.Linear(2, 2)]  # a list does not register it

    def forward(self, x):
        return self.hidden[0](self.block(self.shared(x))).sum()


def test_module_paths():
    net = Nested().eval()
    net.block.train()
    graph = record(net, torch.ones(1, 2), module=net)
    assert [op.module for op in graph.ops] == ["shared", "block.0", "block.1", "shared", "", ""]
    assert [op.module_type for op in graph.ops] == ["Linear", "Linear", "ReLU", "Linear", "Nested", "Nested"]
    assert [op.training for op in graph.ops] == [True, True, True, True, False, False]
    unregistered = graph.values[graph.ops[4].inputs[1]]
    assert (unregistered.kind, unregistered.requires_grad, graph.ops[4].parameters) == ("constant", True, ())


def test_tied_weights_are_one_value():
    embedding, head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
    head.weight = embedding.weight
    net = nn.Sequential(embedding, head)
    graph = record(lambda x: net(x).sum(), torch.tensor([1, 2]), module=net)
    look_up, linear, _ = graph.ops
    assert look_up.parameters == linear.parameters == ("0.weight",)
    assert set(look_up.inputs) & set(linear.inputs)


def test_an_exception_leaves_the_modules_right():
    class Picky(nn.Module):
        def forward(self, x):
            x = self.inner(x)
            raise KeyError("no")

    net = nn.ModuleDict({"picky": Picky(), "fine": nn.Linear(2, 1)})
    net["picky"].inner = nn.Linear(2, 2)

    def work(x):
        with pytest.raises(KeyError):
            net["picky"](x)
        return net["fine"](x).sum()

    graph = record(work, torch.ones(1, 2), module=net)
    assert [op.module for op in graph.ops] == ["picky.inner", "fine", ""]


def test_an_exception_of_the_step_passes_and_nothing_stays_behind():
    hooks = len(nn.modules.module._global_forward_hooks) + len(nn.modules.module._global_forward_pre_hooks)
    recorder = Recorder(nn.Module(), None)
    with pytest.raises(ZeroDivisionError), recorder:
        torch.ones(1) + 1 / 0
    assert len(nn.modules.module._global_forward_hooks) + len(nn.modules.module._global_forward_pre_hooks) == hooks
    assert _get_current_function_mode_stack() == []
    assert recorder.graph.losses == []


def test_source_line_is_the_nearest_of_the_user():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def helper(x):
        return x.exp()

    here = inspect.currentframe().f_lineno
    work = lambda x: net(helper(x)).sum()
    graph = record(work, torch.ones(1, 2), module=net)
    lines = [op.source_line.rsplit(":", 1) for op in graph.ops]
    assert {file for file, _ in lines} == {__file__}
    assert [int(line) - here for _, line in lines] == [-2, 1, 1, 1]


def test_source_line_is_relative_within_the_working_directory(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "net.py"
    space = {}
    exec(compile("def work(x):\n    return x.exp().sum()\n", file, "exec"), space)
    monkeypatch.chdir(tmp_path)
    assert record(space["work"], torch.ones(1)).ops[0].source_line == "models/net.py:2"


# --- what: batches ---------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")  # noqa: PYI024


@dataclasses.dataclass
class Sample:
    image: torch.Tensor
    label: int = 0


BATCHES = [
    (torch.ones(2), lambda b: b, "batch"),
    ([torch.ones(2), "text"], lambda b: b[0], "batch[0]"),
    ({"a": {"b": (0, torch.ones(2))}}, lambda b: b["a"]["b"][1], "batch['a']['b'][1]"),
    (Pair(None, torch.ones(2)), lambda b: b.right, "batch.right"),
    ([Sample(torch.ones(2))], lambda b: b[0].image, "batch[0].image"),
]


@pytest.mark.parametrize(("batch", "pick", "name"), BATCHES)
def test_batches(batch, pick, name):
    with Recorder(nn.Module(), batch) as recorder:
        recorder.mark_loss(pick(batch).sum())
    value = recorder.graph.values[recorder.graph.ops[0].inputs[0]]
    assert (value.kind, value.name, value.shape) == ("batch", name, (2,))


@pytest.mark.parametrize("batch", [None, 3, "text", [], {}, float("nan"), torch.empty(0), object()])
def test_odd_batches(batch):
    with Recorder(nn.Linear(1, 1), batch) as recorder:
        recorder.mark_loss(torch.ones(1).sum())
    assert len(recorder.graph.losses) == 1


def test_lists_and_tuples_of_tensors():
    def work(x):
        left, right = x.chunk(2)
        top, where = torch.stack([left, right]).max(dim=0)
        return torch.cat(torch.split(top, 1)).sum() + where.float().mean()

    graph = record(work, torch.arange(8.0).reshape(4, 2))
    assert names(graph) == ["chunk", "stack", "max", "split", "cat", "sum", "float", "mean", "add"]
    assert [len(op.outputs) for op in graph.ops] == [2, 1, 2, 2, 1, 1, 1, 1, 1]
    assert all(graph.reaches_loss(op) for op in graph.ops)
    assert graph.values[graph.ops[2].outputs[1]].dtype == torch.int64


def test_iterating_over_a_tensor():
    graph = record(lambda x: sum(row.exp().sum() for row in x), torch.ones(2, 2))
    (unbind,) = graph.find("unbind")
    assert len(graph.children(unbind)) == 2


def test_scalars_integers_sparse_and_empty():
    embedding = nn.Embedding(4, 2, sparse=True)

    def work(x, index):
        indices = torch.tensor([[0], [1]])
        dense = torch.sparse_coo_tensor(indices, torch.ones(1), (2, 2), check_invariants=True).to_dense()
        return embedding(index).sum() * x + dense.sum() + torch.empty(0, 2).sum() + (index // 2).sum()

    graph = record(work, torch.tensor(2.0), torch.tensor([1, 3]), module=embedding)
    assert graph.blind == []
    assert graph.find("embedding")[0].parameters == ("weight",)
    assert graph.reaches_loss(graph.find("floor_divide")[0])


def test_tensor_subclasses():
    class Tagged(torch.Tensor):
        pass

    x = torch.ones(2, 3).as_subclass(Tagged)
    attention = nn.MultiheadAttention(3, 1)
    graph = record(lambda x: attention(x, x, x)[0].sum() + x.relu().sum(), x, module=attention)
    assert names(graph)[-3:] == ["relu", "sum", "add"]
    assert all(graph.reaches_loss(op) for op in graph.find("relu", "multi_head_attention_forward"))


# --- losses ----------------------------------------------------------------------------------------------------------


def test_backward_within_marks_its_loss():
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    with Recorder(net, x) as recorder:
        net(x).sum().backward()
        net(x).square().sum().backward()
    graph = recorder.graph
    assert [graph.producer(loss).index for loss in graph.losses] == [1, 4]


def test_several_losses_each_once():
    def work(x):
        with Recorder(nn.Module(), x) as recorder:
            h = x * 2
            first, second = h.sum(), h.exp().mean()
            unused = h.cos()
            for loss in (first, second, first):
                recorder.mark_loss(loss)
        assert unused is not None
        return recorder.graph

    graph = work(torch.ones(2))
    assert [graph.producer(loss).name for loss in graph.losses] == ["sum", "mean"]
    assert [op.name for op in graph.find(feeding=False)] == ["cos"]


def test_a_loss_marked_after_the_recorder_was_left():
    with Recorder(nn.Module(), None) as recorder:
        loss = torch.ones(2).sum()
    assert recorder.graph.losses == []
    recorder.mark_loss(loss)
    assert recorder.graph.losses == list(recorder.graph.ops[0].outputs)


@pytest.mark.parametrize("wrong", [None, 1.0, [torch.ones(1)]])
def test_a_loss_is_a_tensor(wrong):
    with pytest.raises(ValueError, match="`loss` must be a tensor, got"):
        Recorder(nn.Module(), None).mark_loss(wrong)


def test_records_one_step():
    recorder = Recorder(nn.Module(), None)
    with recorder:
        pass
    with pytest.raises(RuntimeError, match="one step"), recorder:
        pass


def test_graph_travels():
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    graph = record(lambda x: net(x).sum(), x, module=net)
    assert pickle.loads(pickle.dumps(graph)) == copy.deepcopy(graph) == graph


# --- gradients of gradients, optimizers ------------------------------------------------------------------------------


def test_gradient_penalty():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), torch.ones(3, 2)

    def work(x):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    graph = record(work, x, module=net)
    (grad,) = graph.find("grad")
    assert all(graph.reaches_loss(op) for op in graph.ops)
    assert graph.values[graph.ops[0].inputs[0]].requires_grad
    assert {op.name for op in graph.children(grad)} == {"norm"}


class Signed(torch.optim.Optimizer):
    """An optimizer of the user's own."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.update(parameter, group["lr"])
        return loss

    def update(self, parameter, lr):
        parameter.sub_(parameter.grad.sign(), alpha=lr)


OPTIMIZERS = [Signed, torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("closed", [False, True])
def test_optimizers_are_not_recorded_but_their_closures_are(kind, closed):
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    options = {"max_iter": 1} if kind is torch.optim.LBFGS else {}
    optimizer = kind(net.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        with torch.no_grad():
            frozen = net(x)
        loss = (net(x) - frozen + 1).square().sum()
        loss.backward()
        return loss

    with Recorder(net, x) as recorder:
        if closed or kind is torch.optim.LBFGS:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        recorder.mark_loss(net(x).sum())
    assert recorder.graph.blind == []
    assert names(recorder.graph) == ["linear", "linear", "sub", "add", "square", "sum", "linear", "sum"]
    assert len(recorder.graph.losses) == 2
    assert all(value.producer is None for value in recorder.graph.values if value.kind == "parameter")


# --- custom functions and checkpoints, crossed -----------------------------------------------------------------------


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x / 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


class HalfInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        x.div_(4)
        x.mul_(2)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


class Silent(torch.autograd.Function):
    """Computes where no torch function passes by."""

    @staticmethod
    def forward(ctx, x, y):
        with torch._C.DisableTorchFunction():
            return x * y

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


def test_a_chain_of_custom_functions():
    net, x = nn.Linear(2, 2), torch.ones(1, 2)
    graph = record(lambda x: HalfInPlace.apply(Half.apply(Half.apply(net(x))) * 1).sum(), x, module=net)
    assert names(graph) == ["linear", "Half", "Half", "mul", "HalfInPlace", "sum"]
    assert [len(graph.parents(op)) for op in graph.ops] == [0, 1, 1, 1, 1, 1]
    assert graph.blind == []


def test_a_custom_function_under_no_grad():
    def work(x):
        with torch.no_grad():
            return Half.apply(x).sum()

    graph = record(work, torch.ones(2))
    assert names(graph) == ["Half", "sum"]
    assert [op.grad_enabled for op in graph.ops] == [False, False]


def test_a_custom_function_whose_inside_does_not_pass_by():
    net, x = nn.Linear(2, 2), torch.ones(1, 2)

    class Wrapped(nn.Module):
        def forward(self, x, y):
            return Silent.apply(x, y)

    net.wrapped = Wrapped()
    graph = record(lambda x: net.wrapped(net(x), net.weight).sum(), x, module=net)
    linear, silent, total = graph.ops
    assert (silent.name, silent.module, silent.arguments) == ("Silent", "wrapped", {"opaque": True})
    assert silent.parameters == ("weight",)
    assert graph.parents(silent) == [linear]
    assert graph.parents(total) == [silent]
    assert graph.blind == []


def test_a_custom_function_within_a_reentrant_checkpoint():
    net, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    inner = lambda x: Half.apply(net(x)).exp()
    graph = record(lambda x: checkpoint(inner, x, use_reentrant=True).sum(), x, module=net)
    assert names(graph) == ["linear", "Half", "exp", "sum"]
    assert all(op.grad_enabled and graph.values[op.outputs[0]].requires_grad for op in graph.ops)
    assert all(graph.reaches_loss(op) for op in graph.ops)


# --- blind spots and troubles ----------------------------------------------------------------------------------------


def test_what_only_autograd_knows_is_recorded_and_said():
    net = nn.Linear(2, 2)

    def work(x):
        h = net(x)
        with torch._C.DisableTorchFunction():
            h = (h * 2).tanh()
        return h.sum()

    graph = record(work, torch.ones(1, 2), module=net)
    assert names(graph) == ["linear", "mul", "tanh", "sum"]
    assert [graph.reaches_loss(op) for op in graph.ops] == [True] * 4
    assert [op.arguments for op in graph.ops[1:3]] == [{"opaque": True}] * 2
    (sentence,) = graph.blind
    assert sentence.endswith(": mul, tanh.")


def test_a_write_that_does_not_pass_by_is_said():
    def work(x):
        h = x * 2
        with torch._C.DisableTorchFunction():
            h.fill_(1.0)
        return h.sum()

    (sentence,) = record(work, torch.ones(2)).blind
    assert sentence == "A tensor of shape (2,) made by mul was overwritten by something that is no torch function."


def test_a_loss_from_nowhere_is_said():
    with Recorder(nn.Module(), None) as recorder:
        pass
    recorder.mark_loss(torch.ones(()))
    assert recorder.graph.blind == ["A loss was marked that no operation seen here made."]


def test_own_trouble_never_breaks_the_step(monkeypatch):
    def broken(*_):
        raise LookupError("oops")

    monkeypatch.setattr("lightning_tuning.trace._scribe.bind", broken)
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    with Recorder(net, x) as recorder:
        loss = net(x).relu().sum()
        loss.backward()
    assert net.weight.grad is not None
    assert recorder.graph.blind[0] == "The recorder failed (LookupError: oops); operations may be missing."
    assert len(recorder.graph.blind) <= 3


def test_other_function_modes_go_on():
    seen = []

    class Other(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    other, recorder = Other(), Recorder(nn.Module(), None)
    recorder.__enter__()
    other.__enter__()
    loss = torch.ones(2).sum()
    recorder.mark_loss(loss)
    recorder.__exit__(None, None, None)
    count = len(seen)
    torch.ones(2).sum()
    other.__exit__(None, None, None)
    assert (count, len(seen)) == (2, 4)
    assert names(recorder.graph) == ["sum"]
    assert _get_current_function_mode_stack() == []


def test_default_device_and_two_recorders():
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    with torch.device("cpu"), Recorder(net, x) as outer, torch.device("cpu"), Recorder(net, x) as inner:
        loss = (net(x) + torch.zeros(1)).sum()
        outer.mark_loss(loss)
        inner.mark_loss(loss)
    assert names(outer.graph) == names(inner.graph) == ["linear", "add", "sum"]


def test_user_code_called_by_a_loss_is_seen():
    distance = nn.Bilinear(2, 2, 1)
    pull = lambda a, b: distance(a, b).abs()
    loss = nn.TripletMarginWithDistanceLoss(distance_function=pull)
    x = [torch.randn(3, 2) for _ in range(3)]
    graph = record(loss, *x, module=distance)
    assert len(graph.find("bilinear")) == 2


# --- whether it may be recorded live ---------------------------------------------------------------------------------


def test_plain_modules_may_be_recorded():
    for name in ("mlp", "attention", "transformer", "gan"):
        assert why_not_live(told(name).module) is None


@pytest.mark.parametrize("kind", [nn.MultiheadAttention(2, 1), nn.TransformerEncoderLayer(2, 1, 2)])
def test_attention_in_evaluation_mode(kind):
    net = nn.ModuleDict({"teacher": kind, "student": nn.Linear(1, 1)})
    assert why_not_live(net) is None
    net["teacher"].eval()
    assert why_not_live(net).startswith(f"`teacher` ({type(kind).__name__}) is in evaluation mode")


@torch.compile(backend="eager")
def compiled_function(x):
    return x * 2


class ByFunction(nn.Module):
    def forward(self, x):
        return compiled_function(x)


class ByMethod(nn.Module):
    @torch.compile(backend="eager")
    def forward(self, x):
        return x * 2


def compiled_in_place():
    net = nn.Linear(1, 1)
    net.compile(backend="eager")
    return net


def compiled_attribute():
    net = nn.Linear(1, 1)
    net.fast = torch.compile(F.relu, backend="eager")
    return net


COMPILED = [
    (lambda: torch.compile(nn.Linear(1, 1), backend="eager"), ""),
    (compiled_in_place, ""),
    (ByMethod, " in its `forward`"),
    (ByFunction, " in its `compiled_function`"),
    (compiled_attribute, " in its `fast`"),
]


@pytest.mark.parametrize(("make", "where"), COMPILED)
def test_compiled_modules(make, where):
    assert f"is compiled{where}: run eagerly" in why_not_live(nn.Sequential(nn.Linear(1, 1), make()))


def test_a_compiled_module_forced_to_be_eager_is_seen_under_its_own_names():
    torch.manual_seed(0)
    story = compiled()
    assert why_not_live(story.module) == "`1` is compiled: run eagerly for the recording, its numbers would change."
    with torch.compiler.set_stance("force_eager"), Recorder(story.module, story.batch) as recorder:
        story.step(recorder.mark_loss)
    graph = recorder.graph
    assert graph.blind == []
    assert names(graph) == ["linear", "linear", "relu", "mean"]
    assert [op.module for op in graph.ops] == ["0", "1.0", "1.1", ""]
    assert graph.ops[1].parameters == ("1.0.weight", "1.0.bias")
