from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.findings import Severity
from lightning_tuning.rules.dropout_rate import LT303, dropout_rates
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def hidden(p: float, dropout: type[nn.Module] = nn.Dropout) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), dropout(p), nn.Linear(16, 2))


def functional(p: float) -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return parts["head"](F.dropout(parts["body"](x).relu(), p))

    return Lambda(forward, body=nn.Linear(8, 16), head=nn.Linear(16, 2))


def at_input(p: float) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(p), nn.Linear(8, 2))


def in_attention(p: float) -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        tokens = parts["embed"](x)[:, None].expand(-1, 3, -1)
        return parts["head"](parts["attention"](tokens, tokens, tokens, need_weights=False)[0].mean(1))

    attention = nn.MultiheadAttention(8, 2, dropout=p, batch_first=True)
    return Lambda(forward, embed=nn.Linear(8, 8), attention=attention, head=nn.Linear(8, 2))


def in_lstm(p: float, layers: int = 2) -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return parts["head"](parts["lstm"](x[:, :, None])[0][:, -1])

    return Lambda(forward, lstm=nn.LSTM(1, 6, layers, dropout=p, batch_first=True), head=nn.Linear(6, 2))


MAKERS = [hidden, functional, in_attention, in_lstm]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("p", "severity"),
    [
        (0.0, None),
        (0.1, None),
        (0.3, None),
        (0.5, None),
        (0.51, Severity.WARNING),
        (0.9, Severity.WARNING),
        (1.0, Severity.ERROR),
    ],
)
def test_rates_inside(make, p: float, severity: Severity | None) -> None:
    found = dropout_rates(step_of(make(p), rows()))
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    if found:
        assert found[0].code == LT303.code
        assert found[0].evidence["p"] == p
        assert found[0].where or found[0].source_line


@pytest.mark.parametrize(
    ("p", "severity"),
    [
        (0.1, None),
        (0.2, None),
        (0.3, Severity.INFO),
        (0.5, Severity.INFO),
        (0.8, Severity.WARNING),
        (1, Severity.ERROR),
    ],
)
def test_rates_at_the_input(p: float, severity: Severity | None) -> None:
    found = dropout_rates(step_of(at_input(p), rows()))
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])


def test_the_message_asks_for_the_keep_probability() -> None:
    (found,) = dropout_rates(step_of(hidden(0.9), rows()))
    assert "is 0.9 a keep probability?" in found.message
    assert "p=0.1" in found.remedy
    assert found.where == "2"


def test_equal_rates_are_one_finding() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.8), nn.Linear(8, 8), nn.Dropout(0.8), nn.Linear(8, 2))
    (found,) = dropout_rates(step_of(net, rows()))
    assert found.evidence["dropouts"] == 2
    assert "likewise in 1 more" in found.message


def denoising(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net(F.dropout(x, 0.75)), x)


def two_views(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    one, other = net(F.dropout(x, 0.6)), net(F.dropout(x, 0.6))
    return F.cross_entropy(one @ other.T, torch.arange(len(x)))


def mask_of_ones(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x * F.dropout(torch.ones(len(x), 1), 0.6)), y)


def without_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    net(F.dropout(x, 0.9))
    return F.cross_entropy(net(x), y)


def by_hand(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Stochastic depth: no dropout at all."""
    keep = (torch.rand(len(x), 1) < 0.2).float() / 0.2
    return F.cross_entropy(net(x + keep * x.tanh()), y)


@pytest.mark.parametrize("loss", [denoising, two_views, mask_of_ones, without_loss, by_hand])
def test_masks_that_are_augmentation_are_quiet(loss) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    assert dropout_rates(step_of(net, rows(), loss)) == []


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(8, 16), nn.SELU(), nn.AlphaDropout(0.9), nn.Linear(16, 2)),
        nn.Sequential(nn.Linear(8, 16), nn.SELU(), nn.FeatureAlphaDropout(0.9), nn.Linear(16, 2)),
        in_lstm(0.5, layers=2),
        nn.Linear(8, 2),
    ],
    ids=["alpha", "feature alpha", "lstm", "none"],
)
def test_quiet(net: nn.Module) -> None:
    assert dropout_rates(step_of(net, rows())) == []


def test_evaluation_mode_is_quiet() -> None:
    for make in MAKERS:
        if make is not functional:  # which is always on
            assert dropout_rates(step_of(make(0.9), rows(), training=False)) == []


def test_an_embedding_is_no_input() -> None:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return parts["head"](F.dropout(parts["embed"]((x > 0).long()).mean(1), 0.4))

    net = Lambda(forward, embed=nn.Embedding(2, 8), head=nn.Linear(8, 2))
    assert dropout_rates(step_of(net, rows())) == []


def test_nothing_at_all() -> None:
    assert dropout_rates(Graph()) == []
