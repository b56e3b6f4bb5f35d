from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.stacked_linear import stacked_linears
from tests.rules.heads import CLASSES, data, traced


def ce(net, d):
    return F.cross_entropy(net(d["x"]), d["y"])


def seq(*modules):
    return nn.Sequential(*modules)


class Bare(nn.Module):
    """``x @ a @ b``, no modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(*s)) for s in ((8, 16), (16, 16), (16, CLASSES)))

    def forward(self, x):
        return F.relu(torch.matmul(x, self.a).reshape(-1, 16) @ self.b) @ self.c


class Images(nn.Module):
    """Layers over images ``[16, 1, 8, 8]``, then a head."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x):
        return self.head(self.layers(x[:, :1, None, None].expand(-1, 1, 8, 8)).relu().flatten(1))


def made(net):
    net(data()["x"])  # lazy layers
    return net


SICK = {
    "sequential": (lambda: seq(nn.Linear(8, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)), ["1"]),
    "dropout between": (
        lambda: seq(nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
        ["2"],
    ),
    "a net of two": (lambda: seq(nn.Linear(8, 16), nn.Linear(16, CLASSES)), ["1"]),
    "a net of three": (lambda: seq(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)), ["1", "2"]),
    "functional": (Bare, [""]),
    "convolutions": (lambda: made(Images(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))), ["layers.1"]),
}


@pytest.mark.parametrize("name", SICK)
def test_two_weight_layers_in_a_row_are_found(name):
    build, where = SICK[name]
    found = stacked_linears(traced(build(), ce))
    assert [(finding.code, finding.where) for finding in found] == [("LT318", place) for place in where]


class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 16).requires_grad_(False)
        self.a, self.b, self.head = nn.Linear(8, 2, bias=False), nn.Linear(2, 16, bias=False), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head((self.base(x) + 0.5 * self.b(F.dropout(self.a(x), 0.1))).relu())


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(5))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.embed(x.view(4, 4, 8))
        mixed = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.head((x + self.out(mixed)).relu()).view(16, CLASSES)


class PackedAttention(nn.Module):
    """A projection of the tokens, then queries, keys and values in one, as torch's own attention has them."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = self.tokens(x.unflatten(0, (-1, 4)))
        return self.head(self.attention(x, x, x)[0]).flatten(0, 1)


class ChunkedAttention(PackedAttention):
    def __init__(self):
        super().__init__()
        self.attention = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.attention(self.tokens(x.unflatten(0, (-1, 4)))).chunk(3, dim=-1)
        return self.head(F.scaled_dot_product_attention(q, k, v)).flatten(0, 1)


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu, self.logvar = nn.Linear(8, 8), nn.Linear(8, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, x):
        mu, logvar = self.mu(x), self.logvar(x)
        return self.decoder(mu + torch.randn_like(mu) * (0.5 * logvar).exp())


class SharedHead(nn.Module):
    """The output convolution of a pyramid's level, then a head that all levels share."""

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(2))
        self.shared, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x):
        x = x[:, :1, None, None].expand(-1, 1, 8, 8)
        return self.head(sum(self.shared(level(x)).relu().mean((2, 3)) for level in self.levels))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.lstm, self.head = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.lstm(self.into(x[:, None]))[0][:, -1])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.first(x)
        return self.head((x + self.second(x)).relu())


class WideProjection(nn.Module):
    """A projection of features before the classifier, as speech models have it."""

    def __init__(self):
        super().__init__()
        self.net = seq(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.Linear(16, CLASSES))

    def forward(self, x):
        return self.net(x)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.random, self.head = nn.Linear(8, 32).requires_grad_(False), seq(nn.Linear(32, 16), nn.ReLU())
        self.last = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.last(self.head(self.random(x)))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OwnActivation(nn.Module):
    def forward(self, x):
        return Square.apply(x)


QUIET = {
    "queries, keys and values in one": PackedAttention,
    "queries, keys and values in chunks": ChunkedAttention,
    "activation": lambda: seq(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
    "normalization": lambda: seq(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)),
    "bottleneck": lambda: seq(nn.Linear(8, 2), nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
    "own activation": lambda: seq(nn.Linear(8, 16), OwnActivation(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)),
    "linear probe": lambda: nn.Linear(8, CLASSES),
    "LoRA": LoRA,
    "attention": SelfAttention,
    "VAE": Vae,
    "recurrent": Recurrent,
    "residual": Residual,
    "last projection": WideProjection,
    "frozen": Frozen,
    "shared head": SharedHead,
    "depthwise": lambda: made(Images(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1))),
    "pointwise": lambda: made(Images(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 1))),
    "crossed kernels": lambda: made(Images(nn.Conv2d(1, 4, (3, 1)), nn.Conv2d(4, 8, (1, 3)))),
    "patches": lambda: made(Images(nn.Conv2d(1, 4, 4, stride=4), nn.Flatten(2), nn.Linear(4, 4))),
    "up again": lambda: made(Images(nn.Conv2d(1, 4, 2, stride=2), nn.ConvTranspose2d(4, 4, 2, stride=2))),
    "pooling of maxima": lambda: made(Images(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2))),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_built_so_on_purpose_is_left_alone(name):
    assert stacked_linears(traced(QUIET[name](), ce)) == []
