from __future__ import annotations

import pytest
import torch

from lightning_tuning.trace import Recorder
from tests.trace.nets import STORIES, told


def recorded(name):
    story = told(name)
    with Recorder(story.module, story.batch) as recorder:
        story.step(recorder.mark_loss)
    return recorder.graph


def outcome(name, *, record):
    """All that a step leaves behind: losses, gradients, parameters, buffers, RNG."""
    story = told(name)
    if record:
        with Recorder(story.module, story.batch) as recorder:
            losses = story.step(recorder.mark_loss)
        assert recorder.graph.losses
    else:
        losses = story.step(lambda _: None)
    gradients = {f"{name}.grad": p.grad for name, p in story.module.named_parameters() if p.grad is not None}
    state = {name: tensor.clone() for name, tensor in story.module.state_dict().items()}
    results = {f"loss {number}": loss.detach() for number, loss in enumerate(losses)}
    return {**results, "rng": torch.get_rng_state(), **gradients, **state}


@pytest.mark.parametrize("name", STORIES)
def test_changes_nothing_bit_for_bit(name):
    without, within = outcome(name, record=False), outcome(name, record=True)
    assert without.keys() == within.keys()
    assert [key for key in without if not torch.equal(without[key], within[key])] == []


@pytest.mark.parametrize("name", STORIES)
def test_is_a_whole_graph(name):
    graph = recorded(name)
    assert graph.blind == []
    for op in graph.ops:
        assert all(graph.values[value].producer == op.index for value in op.outputs)
        assert all(parent.index < op.index for parent in graph.parents(op))
        assert op.source_line is not None
        assert "nets.py:" in op.source_line
        assert op.name == op.name.strip("_")
    assert all(made.index in graph.ops[made.producer].outputs for made in graph.values if made.producer is not None)
    assert all(graph.producer(loss) is not None for loss in graph.losses)


def names(ops):
    return [op.name for op in ops]


def test_mlp():
    graph = recorded("mlp")
    assert names(graph.ops) == ["linear", "tanh", "dropout", "linear", "cross_entropy"]
    assert [op.module for op in graph.ops] == ["0", "1", "2", "3", ""]
    assert [op.module_type for op in graph.ops] == ["Linear", "Tanh", "Dropout", "Linear", "Sequential"]
    first, *_, loss = graph.ops
    assert graph.values[first.inputs[0]].name == "batch['x']"
    assert [graph.values[value].name for value in loss.inputs][1] == "batch['y']"
    assert first.parameters == ("0.weight", "0.bias")
    assert graph.values[first.outputs[0]].shape == (6, 8)
    assert graph.losses == list(loss.outputs)


def test_bn_cnn():
    graph = recorded("bn_cnn")
    (norm,) = graph.find("batch_norm")
    assert norm.arguments["training"] is True
    assert norm.arguments["track_running_stats"] is True
    assert {graph.values[value].name for value in norm.inputs if graph.values[value].kind == "buffer"} == {
        "1.running_mean",
        "1.running_var",
    }
    (relu,) = graph.children(norm)
    assert (relu.name, relu.inplace, relu.module) == ("relu", True, "2")
    assert names(graph.children(relu)) == ["max_pool2d"]
    (counter,) = graph.find("add")  # num_batches_tracked
    assert not graph.reaches_loss(counter)


def test_residual():
    graph = recorded("residual")
    stem, *_ = graph.ops
    assert stem.module == "stem"
    assert names(graph.children(stem)) == ["linear", "add"]
    first, second = graph.find("add")
    assert (first.inplace, second.inplace) == (False, True)
    assert {op.module for op in graph.parents(second)} == {"", "block.2"}
    assert len(graph.find(module="block")) == 6
    (mean,) = graph.find("mean")
    assert graph.parents(mean) == [second]


def test_packed_lstm():
    graph = recorded("lstm")
    (lstm,) = graph.find("lstm")
    assert len(lstm.parameters) == 8
    assert lstm.module == "lstm"
    (pack,) = graph.parents(lstm)  # the zeros that it starts from are constants
    assert {graph.values[value].name for value in pack.inputs} == {"batch[0]", "batch[1]"}
    assert graph.reaches_loss(pack)


@pytest.mark.parametrize(
    ("name", "inside"), [("attention", "scaled_dot_product_attention"), ("attention_weights", "softmax")]
)
def test_attention_shows_what_is_inside(name, inside):
    graph = recorded(name)
    assert not graph.find("multi_head_attention_forward")
    (core,) = graph.find(inside)
    projection, out = graph.find("linear")
    assert projection.parameters == ("in_proj_weight", "in_proj_bias")
    assert out.parameters == ("out_proj.weight", "out_proj.bias")
    assert projection.index in graph.upstream(core)
    assert out.index in graph.downstream(core)
    if name == "attention":
        assert core.arguments["dropout_p"] == 0.1
    else:
        (dropout,) = graph.find("dropout")
        assert graph.parents(dropout) == [core]
        assert dropout.arguments["p"] == 0.1


def test_transformer():
    graph = recorded("transformer")
    assert len(graph.find("scaled_dot_product_attention")) == 2
    assert len(graph.find("layer_norm")) == 4
    assert len(graph.find("dropout")) == 6
    assert len(graph.find("linear", module="layers.1")) == 4
    assert all(graph.reaches_loss(op) for op in graph.ops)
    used = {parameter for op in graph.ops for parameter in op.parameters}
    assert used == set(dict(told("transformer").module.named_parameters()))


def test_functional():
    graph = recorded("functional")
    (dropout,), (norm,) = graph.find("dropout"), graph.find("batch_norm")
    assert graph.parents(norm) == [dropout]
    assert norm.parameters == ("gain",)
    assert (dropout.module, dropout.module_type) == ("", "Functional")
    (transpose,) = graph.find("t")
    assert transpose.parameters == ("weight",)
    assert names(graph.children(norm)) == ["gt", "mul", "where"]
    assert norm.source_line != dropout.source_line


def test_weighted_losses():
    graph = recorded("weighted_losses")
    assert len(graph.losses) == 1
    (unbind,) = graph.find("unbind")
    assert len(unbind.outputs) == 2
    assert names(graph.children(unbind)) == ["square", "huber_loss"]
    assert all(graph.reaches_loss(op) for op in graph.ops)


def test_autocast():
    graph = recorded("autocast")
    linears = graph.find("linear")
    assert {graph.values[op.outputs[0]].dtype for op in linears} == {torch.bfloat16}
    assert names(graph.ops) == ["linear", "relu", "linear", "float", "square", "mean"]


@pytest.mark.parametrize("name", ["checkpointed", "checkpointed_reentrant"])
def test_checkpointed_forward_is_recorded_once(name):
    graph = recorded(name)
    assert names(graph.ops) == ["linear", "linear", "dropout", "tanh", "linear", "mean"]
    assert [op.module for op in graph.ops] == ["0", "1.0", "1.1", "1.2", "2", ""]
    assert all(op.grad_enabled and graph.reaches_loss(op) for op in graph.ops)
    assert all(graph.values[value].requires_grad for op in graph.ops for value in op.outputs)


def test_custom_function_is_one_opaque_operation():
    graph = recorded("custom_function")
    assert names(graph.ops) == ["linear", "Scale", "exp", "add", "mean"]
    linear, scale, exp, add, _ = graph.ops
    assert scale.arguments == {"opaque": True}
    assert scale.grad_enabled
    assert [graph.values[value].name for value in scale.inputs] == [None, "batch['mask']", "weight"]
    assert scale.parameters == ("weight",)
    assert len(scale.outputs) == 2
    assert graph.parents(scale) == [linear]
    assert graph.children(scale) == [exp, add]
    assert all(graph.values[value].requires_grad for value in scale.outputs)


def test_cut_graph_says_where():
    graph = recorded("cut")
    (detach,) = graph.find("detach")
    behind_no_grad, kept, behind_detach = graph.find("linear")
    assert (kept.module, behind_no_grad.module, behind_detach.module) == ("kept", "lost", "lost")
    assert (kept.grad_enabled, behind_no_grad.grad_enabled, behind_detach.grad_enabled) == (True, False, True)
    flows = [graph.values[op.outputs[0]].requires_grad for op in (kept, behind_no_grad, behind_detach, detach)]
    assert flows == [True, False, True, False]
    assert graph.parents(detach) == [behind_detach]
    assert graph.reaches_loss(behind_detach)


def test_two_optimizers():
    graph = recorded("gan")
    loss_d, loss_g = graph.losses
    assert graph.find("addcdiv", "addcmul", "lerp", "zero") == []  # what optimizers do
    (generator,) = graph.find("linear", module="g")
    assert generator.index in graph.upstream(graph.values[loss_g])
    assert generator.index in graph.upstream(graph.values[loss_d])  # through the detach
    (detach,) = graph.find("detach")
    assert detach.index in graph.upstream(graph.values[loss_d])
    assert detach.index not in graph.upstream(graph.values[loss_g])
    assert len(graph.find("linear", module="d")) == 6
    assert all(value.producer is None for value in graph.values if value.kind == "parameter")
