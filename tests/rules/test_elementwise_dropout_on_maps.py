from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.elementwise_dropout_on_maps import elementwise_dropouts_on_maps
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of

HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def conv(kernel: int = 3) -> nn.Module:
    return nn.Conv2d(1, 4, kernel)


def functional() -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return parts["head"](F.dropout(parts["conv"](x).relu(), 0.2))

    return Lambda(forward, conv=conv(), head=nn.Sequential(*HEAD))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(conv(), nn.Dropout(0.2), *HEAD),
        nn.Sequential(conv(), nn.ReLU(), nn.Dropout(0.2), *HEAD),
        nn.Sequential(nn.ConvTranspose2d(1, 4, 3), nn.Dropout(0.2), *HEAD),
        functional(),
    ],
)
def test_pixels_dropped_behind_a_convolution(net: nn.Module) -> None:
    (found,) = elementwise_dropouts_on_maps(step_of(net, rows(4, 1, 8, 8)))
    assert "Dropout2d(0.2)" in found.remedy
    assert found.evidence["p"] == 0.2


def test_volumes() -> None:
    net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Dropout(0.3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    (found,) = elementwise_dropouts_on_maps(step_of(net, rows(4, 1, 8, 8, 8)))
    assert "Dropout3d(0.3)" in found.remedy


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(conv(), nn.Dropout2d(0.2), *HEAD),
        nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 4, 3), *HEAD),
        nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2), *HEAD),
        nn.Sequential(conv(1), nn.Dropout(0.2), *HEAD),
        nn.Sequential(conv(8), nn.Dropout(0.2), *HEAD),
        nn.Sequential(conv(), *HEAD[:2], nn.Dropout(0.2), HEAD[2]),
        nn.Sequential(conv(), nn.Dropout(0.0), *HEAD),
        nn.Sequential(nn.Dropout(0.2), conv(), *HEAD),
    ],
    ids=["channels", "behind a norm", "behind a pool", "1x1", "one pixel", "head", "p = 0", "input"],
)
def test_quiet(net: nn.Module) -> None:
    assert elementwise_dropouts_on_maps(step_of(net, rows(4, 1, 8, 8))) == []


def test_nothing_at_all() -> None:
    assert elementwise_dropouts_on_maps(Graph()) == []
