from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.trace import Recorder


def record(work, *tensors, module=None):
    with Recorder(module or nn.Module(), tensors) as recorder:
        work(*tensors)
    assert recorder.graph.blind == []
    return recorder.graph


def one(work, *tensors):
    """The only operation that ``work`` does."""
    (op,) = record(work, *tensors).ops
    return op


def square():
    return torch.arange(16.0).reshape(4, 4) / 7


SPELLINGS = {
    "relu": [F.relu, torch.relu, torch.relu_, F.relu_, torch.Tensor.relu, nn.ReLU(), nn.ReLU(inplace=True)],
    "add": [
        lambda x: x + 1,
        lambda x: 1 + x,
        lambda x: x + x,
        lambda x: x.add_(1),
        lambda x: torch.add(x, x),
        lambda x: torch.ops.aten.add(x, x),
        lambda x: torch.ops.aten.add.Tensor(x, x),
        lambda x: x.__iadd__(1),
    ],
    "sub": [lambda x: x - 1, lambda x: 1 - x, lambda x: x.sub_(x), lambda x: x.subtract(1), lambda x: torch.rsub(x, 1)],
    "mul": [lambda x: x * 2, lambda x: 2 * x, lambda x: x.multiply(2), lambda x: x.mul_(2)],
    "div": [lambda x: x / 2, lambda x: 2 / x, lambda x: torch.true_divide(x, 2), lambda x: x.div_(2)],
    "matmul": [lambda x: x @ x, lambda x: torch.matmul(x, x), lambda x: torch.linalg.matmul(x, x)],
    "pow": [lambda x: x**2, lambda x: 2**x, lambda x: torch.pow(x, 2)],
    "neg": [lambda x: -x, torch.negative, torch.neg_],
    "gt": [lambda x: x > 0, lambda x: torch.greater(x, 0)],
    "bitwise_and": [lambda x: x.int() & 1, lambda x: 1 & x.int(), lambda x: x.int().bitwise_and(1)],
    "softmax": [lambda x: x.softmax(-1), lambda x: F.softmax(x, -1), lambda x: torch.softmax(x, -1), nn.Softmax(-1)],
    "log_softmax": [lambda x: F.log_softmax(x, -1), lambda x: torch.special.log_softmax(x, -1)],
    "sigmoid": [torch.sigmoid, F.sigmoid, nn.Sigmoid(), torch.special.expit],
    "clamp": [lambda x: x.clamp(0, 1), lambda x: torch.clip(x, 0, 1), lambda x: x.clamp_(0, 1)],
    "cat": [lambda x: torch.cat([x, x]), lambda x: torch.concat([x, x]), lambda x: torch.concatenate([x, x])],
    "transpose": [lambda x: x.transpose(0, 1), lambda x: x.swapaxes(0, 1), lambda x: x.mT],
    "t": [lambda x: x.t(), lambda x: x.T],
    "getitem": [lambda x: x[0], lambda x: x[:, 1], lambda x: x[x.new_zeros(1, dtype=torch.long)]],
    "dropout": [F.dropout, nn.Dropout(), lambda x: torch.dropout(x, 0.5, True)],
    "dropout2d": [lambda x: F.dropout2d(x[None, None]), lambda x: nn.Dropout2d()(x[None, None])],
    "alpha_dropout": [lambda x: F.alpha_dropout(x, training=True)],
    "feature_alpha_dropout": [lambda x: torch.feature_alpha_dropout(x, 0.5, True)],
    "layer_norm": [
        nn.LayerNorm(4),
        lambda x: F.layer_norm(x, (4,)),
        lambda x: torch.native_layer_norm(x, (4,), None, None, 1e-5),
    ],
    "item": [lambda x: x.sum().item(), lambda x: float(x.sum()), lambda x: bool(x.sum() > 0), lambda x: int(x.sum())],
    "numpy": [lambda x: x.numpy(), np.asarray],
    "tolist": [torch.Tensor.tolist],
    "detach": [torch.detach, lambda x: x.clone().detach_()],
    "data": [lambda x: x.data],
    "gelu": [F.gelu, nn.GELU()],
    "logsigmoid": [F.logsigmoid, nn.LogSigmoid()],
    "gumbel_softmax": [F.gumbel_softmax],
    "normalize": [F.normalize],
    "einsum": [lambda x: torch.einsum("ij,jk->ik", x, x)],
    "mse_loss": [lambda x: F.mse_loss(x, x), lambda x: nn.MSELoss()(x, x)],
    "cross_entropy": [lambda x: F.cross_entropy(x, x), lambda x: nn.CrossEntropyLoss()(x, x)],
    "setitem": [lambda x: x.__setitem__(0, 1.0)],
}


@pytest.mark.parametrize(("name", "spelling"), [(name, way) for name, ways in SPELLINGS.items() for way in ways])
def test_every_spelling_has_one_name(name, spelling):
    assert record(spelling, square()).ops[-1].name == name


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pools_and_convolutions(size):
    x = torch.ones(1, 1, *[4] * size)
    for module in (getattr(nn, f"MaxPool{size}d")(2), getattr(nn, f"MaxPool{size}d")(2, return_indices=True)):
        assert one(module, x).name == f"max_pool{size}d"
    assert one(getattr(nn, f"AdaptiveMaxPool{size}d")(1), x).name == f"adaptive_max_pool{size}d"
    assert one(getattr(nn, f"AdaptiveAvgPool{size}d")(1), x).name == f"adaptive_avg_pool{size}d"
    conv = one(getattr(nn, f"Conv{size}d")(1, 2, 3, stride=2, padding=1, groups=1), x)
    assert conv.name == f"conv{size}d"
    assert (conv.arguments["stride"], conv.arguments["groups"]) == ((2,) * size, 1)
    assert one(getattr(nn, f"ConvTranspose{size}d")(1, 2, 3), x).name == f"conv_transpose{size}d"


ARGUMENTS = [
    (lambda x: F.dropout(x, 0.3), {"p": 0.3, "training": True}),
    (lambda x: F.dropout(x, training=False), {"p": 0.5, "training": False}),
    (lambda x: torch.dropout(x, 0.2, train=True), {"p": 0.2, "training": True}),
    (lambda x: F.dropout1d(x, 0.25), {"p": 0.25, "training": True}),
    (lambda x: F.alpha_dropout(x, 0.1), {"p": 0.1, "training": False}),
    (
        lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True, momentum=0.2),
        {"training": True, "momentum": 0.2, "eps": 1e-5, "track_running_stats": True},
    ),
    (lambda x: F.batch_norm(x, None, None, training=True), {"training": True, "track_running_stats": False}),
    (
        lambda x: torch.batch_norm(x, None, None, torch.zeros(4), torch.ones(4), False, 0.1, 1e-3, False),
        {"training": False, "momentum": 0.1, "eps": 1e-3, "track_running_stats": True},
    ),
    (lambda x: F.layer_norm(x, [4], eps=1e-6), {"normalized_shape": (4,), "eps": 1e-6}),
    (lambda x: F.group_norm(x, 2), {"num_groups": 2, "eps": 1e-5}),
    (lambda x: F.instance_norm(x[None]), {"use_input_stats": True, "track_running_stats": False}),
    (lambda x: x.softmax(-1), {"dim": -1}),
    (lambda x: F.log_softmax(x, dim=0), {"dim": 0}),
    (lambda x: F.leaky_relu(x, 0.2), {"negative_slope": 0.2, "inplace": False}),
    (lambda x: F.relu(x, True), {"inplace": True}),
    (lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    (
        lambda x: F.cross_entropy(x, x, label_smoothing=0.1),
        {"reduction": "mean", "label_smoothing": 0.1, "ignore_index": -100},
    ),
    (lambda x: F.mse_loss(x, x, reduction="sum"), {"reduction": "sum"}),
    (lambda x: F.huber_loss(x, x, delta=2.0), {"delta": 2.0}),
    (lambda x: x.clamp(min=0), {"min": 0, "max": None}),
    (lambda x: torch.clamp(x, -1, float("inf")), {"min": -1, "max": float("inf")}),
    (lambda x: x.sum((0, 1), keepdim=True), {"dim": (0, 1), "keepdim": True}),
    (lambda x: x.mean(), {"dim": None}),
    (lambda x: x.mean(dim=1), {"dim": 1}),
    (lambda x: x.permute(1, 0), {"dims": (1, 0)}),
    (lambda x: x.permute((1, 0)), {"dims": (1, 0)}),
    (lambda x: x.view(2, 8), {"shape": (2, 8)}),
    (lambda x: x.reshape(-1), {"shape": -1}),
    (lambda x: x[1:, None, ..., ::2], {"index": "1:, None, ..., ::2"}),
    (lambda x: x * 0.5, {"other": 0.5}),
    (lambda x: x.to(torch.float64), {"target": "float64"}),
    (lambda x: F.normalize(x, dim=0), {"p": 2.0, "dim": 0}),
    (lambda x: torch.cat((x, x), 1), {"dim": 1}),
    (lambda x: F.embedding(torch.tensor([0, 1]), x, padding_idx=0), {"padding_idx": 0}),
    (
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.1, is_causal=True),
        {"dropout_p": 0.1, "is_causal": True},
    ),
]


@pytest.mark.parametrize(("work", "expected"), ARGUMENTS)
def test_arguments_by_name(work, expected):
    op = record(work, square()).ops[-1]
    assert {name: op.arguments.get(name, "missing") for name in expected} == expected


@pytest.mark.parametrize(("kind", "name"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn_tanh")])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_arguments(kind, name, packed):
    net = kind(3, 4, num_layers=2, dropout=0.25, bidirectional=True)

    def work(x):
        if packed:
            x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 2]))
            out, _ = net(x)
            return nn.utils.rnn.pad_packed_sequence(out)[0]
        return net(x)[0]

    graph = record(work, torch.ones(5, 2, 3), module=net)
    (op,) = graph.find(name)
    expected = {"num_layers": 2, "dropout": 0.25, "training": True, "bidirectional": True, "has_biases": True}
    assert {key: op.arguments[key] for key in expected} == expected
    assert set(op.parameters) == set(dict(net.named_parameters()))
    assert "batch" in {graph.values[value].kind for parent in [op, *graph.parents(op)] for value in parent.inputs}


def test_shape_questions_are_no_operations():
    def work(x):
        return (
            x.shape,
            x.size(),
            x.dim(),
            x.dtype,
            x.device,
            len(x),
            x.numel(),
            x.is_contiguous(),
            x.requires_grad,
            str(x),
        )

    assert [op.name for op in record(work, square()).ops if op.outputs] == []


CONSTANTS = [
    lambda x: torch.zeros(2),
    lambda x: torch.randn(2),
    lambda x: torch.tensor([1.0]),
    lambda x: torch.arange(3),
    torch.zeros_like,
    torch.rand_like,
    lambda x: x.new_ones(3),
]


@pytest.mark.parametrize("make", CONSTANTS)
def test_what_is_made_from_nothing_is_a_constant(make):
    graph = record(lambda x: make(x).exp(), square())
    (exp,) = graph.ops
    constant = graph.values[exp.inputs[0]]
    assert (constant.kind, constant.producer) == ("constant", None)
    assert constant.name is not None
