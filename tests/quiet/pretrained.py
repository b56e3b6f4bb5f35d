"""What fine-tuning starts from: a small net trained beforehand, on upright digits, by a loop of its own."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.quiet.data import TensorDataset, digit_loaders, digits, loaders

FEATURES = 48


def backbone() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, FEATURES, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(FEATURES),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@functools.cache
def _weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        net = nn.Sequential(backbone(), nn.Linear(FEATURES, 10))
        train, _ = digit_loaders()
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
        for _ in range(5):
            for x, y in train:
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def pretrained() -> nn.Sequential:
    """``[0]`` is the backbone, ``[1]`` the head for the ten digits."""
    net = nn.Sequential(backbone(), nn.Linear(FEATURES, 10))
    net.load_state_dict(_weights())
    return net


def pretrained_backbone() -> nn.Sequential:
    return pretrained()[0]


def turned_digits(batch_size: int = 64) -> tuple[Any, Any]:
    """The task to adapt to: is the digit, turned by a quarter, odd or even, and is it more than four? Four classes."""
    parts = []
    for part in digits():
        images, labels = part.tensors
        parts.append(TensorDataset(images.rot90(1, (2, 3)).contiguous(), labels % 2 + 2 * (labels > 4)))
    return loaders(tuple(parts), batch_size)
