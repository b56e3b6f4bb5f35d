"""Small training steps of every kind that the recorder has to follow, each from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass
class Story:
    """A module, a batch, and a step that calls ``backward`` by itself, after telling ``mark`` of each loss."""

    module: nn.Module
    batch: Any
    step: Callable[[Callable[[Tensor], Any]], list[Tensor]]


def trained(module: nn.Module, batch: Any, loss: Callable[[], Tensor]) -> Story:
    def step(mark: Callable[[Tensor], Any]) -> list[Tensor]:
        value = loss()
        mark(value)
        value.backward()
        return [value]

    return Story(module, batch, step)


def mlp() -> Story:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
    batch = {"x": torch.randn(6, 4), "y": torch.randint(3, (6,))}
    return trained(net, batch, lambda: F.cross_entropy(net(batch["x"]), batch["y"]))


def bn_cnn() -> Story:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    x = torch.randn(5, 1, 8, 8)
    return trained(net, x, lambda: net(x).square().mean())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        out = self.block(x)
        out += x
        return out


def residual() -> Story:
    net, x = Residual(), torch.randn(3, 4)
    return trained(net, x, lambda: net(x).mean())


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        _, (hidden, _) = self.lstm(packed)
        return self.head(hidden[-1])


def lstm() -> Story:
    net, x, lengths = Reader(), torch.randn(2, 5, 3), torch.tensor([5, 3])
    return trained(net, (x, lengths), lambda: net(x, lengths).square().sum())


def attention(*, need_weights: bool = False) -> Story:
    net, x = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True), torch.randn(2, 5, 8)
    return trained(net, x, lambda: net(x, x, x, need_weights=need_weights)[0].square().mean())


def transformer() -> Story:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    net, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(2, 5, 8)
    return trained(net, x, lambda: net(x).square().mean())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.gain = nn.Parameter(torch.ones(6))
        self.bias = nn.Parameter(torch.zeros(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.weight.T + self.bias
        h = F.dropout(h, 0.4, training=self.training)
        h = F.batch_norm(h, self.mean, self.variance, self.gain, training=self.training, momentum=0.2)
        return torch.where(h > 0, h, 0.1 * h)


def functional() -> Story:
    net, x = Functional(), torch.randn(8, 4)
    return trained(net, x, lambda: torch.mean(net(x) ** 2))


def views() -> Story:
    net, x = nn.Linear(4, 4), torch.randn(3, 4)

    def loss() -> Tensor:
        h = net(x)
        first, second = h[0], h[1:]
        first.mul_(2)
        second[:, 0] = h[0, 0].detach()
        h.t().add_(1)
        return h.sum() + first.sum()

    return trained(net, x, loss)


def weighted_losses() -> Story:
    net, x = nn.Linear(4, 2), torch.randn(6, 4)

    def loss() -> Tensor:
        left, right = net(x).unbind(1)
        return 0.3 * left.square().mean() + 0.7 * F.huber_loss(right, torch.ones_like(right))

    return trained(net, x, loss)


def autocast() -> Story:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(6, 4)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
        return out.float().square().mean()

    return trained(net, x, loss)


def checkpointed(*, use_reentrant: bool) -> Story:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Tanh()), nn.Linear(4, 1))
    x = torch.randn(6, 4)
    return trained(net, x, lambda: net[2](checkpoint(net[1], net[0](x), use_reentrant=use_reentrant)).mean())


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        scaled = x * weight
        ctx.save_for_backward(x, mask, weight)
        return scaled * mask, scaled + 1

    @staticmethod
    def backward(ctx: Any, one: Tensor, two: Tensor) -> tuple[Tensor, None, Tensor]:
        x, mask, weight = ctx.saved_tensors
        both = one * mask + two
        return both * weight, None, (both * x).sum(0)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        one, two = Scale.apply(self.inner(x), mask, self.weight)
        return one.exp() + two


def custom_function() -> Story:
    net, x, mask = Scaled(), torch.randn(3, 4), torch.ones(3, 4)
    return trained(net, {"x": x, "mask": mask}, lambda: net(x, mask).mean())


def cut() -> Story:
    net, x = nn.ModuleDict({"kept": nn.Linear(4, 4), "lost": nn.Linear(4, 4)}), torch.randn(3, 4)

    def loss() -> Tensor:
        with torch.no_grad():
            frozen = net["lost"](x)
        return (net["kept"](x) - frozen - net["lost"](x).detach()).square().mean()

    return trained(net, x, loss)


def gan() -> Story:
    net = nn.ModuleDict({"g": nn.Linear(2, 4), "d": nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 1))})
    real = torch.randn(6, 4)
    update_g = torch.optim.Adam(net["g"].parameters(), lr=0.01)
    update_d = torch.optim.SGD(net["d"].parameters(), lr=0.01, momentum=0.9)

    def step(mark: Callable[[Tensor], Any]) -> list[Tensor]:
        fake = net["g"](torch.randn(6, 2))
        loss_d = F.softplus(net["d"](fake.detach())).mean() + F.softplus(-net["d"](real)).mean()
        mark(loss_d)
        loss_d.backward()
        update_d.step()
        update_d.zero_grad()
        loss_g = F.softplus(-net["d"](fake)).mean()
        mark(loss_g)
        loss_g.backward()
        update_g.step()
        return [loss_d, loss_g]

    return Story(net, real, step)


def compiled() -> Story:
    inner = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
    net, x = nn.Sequential(nn.Linear(4, 4), inner), torch.randn(3, 4)
    return trained(net, x, lambda: net(x).mean())


STORIES: dict[str, Callable[[], Story]] = {
    "mlp": mlp,
    "bn_cnn": bn_cnn,
    "residual": residual,
    "lstm": lstm,
    "attention": attention,
    "attention_weights": lambda: attention(need_weights=True),
    "transformer": transformer,
    "functional": functional,
    "views": views,
    "weighted_losses": weighted_losses,
    "autocast": autocast,
    "checkpointed": lambda: checkpointed(use_reentrant=False),
    "checkpointed_reentrant": lambda: checkpointed(use_reentrant=True),
    "custom_function": custom_function,
    "cut": cut,
    "gan": gan,
}


def told(name: str) -> Story:
    """The story of that name from its seed; the RNG stands where its step begins."""
    torch.manual_seed(7)
    return STORIES[name]()
