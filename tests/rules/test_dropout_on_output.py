from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.dropout_on_output import dropouts_on_output
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, classes, rows, squares, step_of

BODY = (nn.Linear(8, 16), nn.ReLU())


def functional() -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.dropout(parts["head"](parts["body"](x).relu()), 0.2)

    return Lambda(forward, body=nn.Linear(8, 16), head=nn.Linear(16, 2))


def nll(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(net(x), 1), y)


def binary(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(net(x).squeeze(1), y.float())


@pytest.mark.parametrize(
    ("net", "loss"),
    [
        (nn.Sequential(*BODY, nn.Linear(16, 2), nn.Dropout(0.1)), classes),
        (nn.Sequential(*BODY, nn.Linear(16, 2), nn.Dropout(0.1)), nll),
        (nn.Sequential(*BODY, nn.Linear(16, 1), nn.Dropout(0.1)), squares),
        (nn.Sequential(*BODY, nn.Linear(16, 1), nn.Dropout(0.1)), binary),
        (nn.Sequential(*BODY, nn.Linear(16, 1), nn.Dropout(0.1), nn.Sigmoid()), squares),
        (functional(), classes),
    ],
    ids=["cross entropy", "nll", "mse", "bce", "behind a sigmoid", "functional"],
)
def test_dropout_behind_the_last_layer(net: nn.Module, loss) -> None:
    (found,) = dropouts_on_output(step_of(net, rows(), loss))
    assert found.evidence["p"] in (0.1, 0.2)
    assert found.where.endswith("3") or found.source_line
    assert dropouts_on_output(step_of(net, rows(), loss, training=False)) == [] or isinstance(net, Lambda)


def before_the_head(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return parts["head"](F.dropout(parts["body"](x).relu(), 0.5))


def residual(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    hidden = parts["body"](x)
    return hidden + F.dropout(hidden.relu(), 0.1)


def averaged(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return F.dropout(parts["body"](x)[:, :, None].expand(-1, -1, 5), 0.2).mean(2)


def normalized(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return F.layer_norm(F.dropout(parts["body"](x), 0.1), (16,))


@pytest.mark.parametrize("forward", [before_the_head, residual, averaged, normalized])
def test_quiet_nets(forward) -> None:
    net = Lambda(forward, body=nn.Linear(8, 16), head=nn.Linear(16, 2))
    assert dropouts_on_output(step_of(net, rows())) == []


def similarity(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """SimCSE: the masks of dropout are the augmentation."""
    one, other = (F.dropout(net(x), 0.1) for _ in range(2))
    return F.cross_entropy(one @ other.T / 0.05, torch.arange(len(x)))


def consistency(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Two passes are pulled together."""
    return F.mse_loss(F.dropout(net(x), 0.1), F.dropout(net(x), 0.1).detach())


def divergence(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """R-Drop: the term between the two masks is no comparison with a target."""
    one, other = net(x), net(x)
    apart = F.kl_div(F.log_softmax(F.dropout(one, 0.1), 1), other.softmax(1), reduction="batchmean")
    return F.cross_entropy(one, y) + F.cross_entropy(other, y) + apart


def penalty(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """AWD-LSTM's regularizer of the dropped activations."""
    out = net(x)
    return F.cross_entropy(out, y) + 2 * F.dropout(out, 0.3).pow(2).mean()


def denoising(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net(F.dropout(x, 0.2)), x)


@pytest.mark.parametrize("loss", [similarity, consistency, divergence, penalty, denoising])
def test_quiet_losses(loss) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    assert dropouts_on_output(step_of(net, rows(), loss)) == []


def test_attention_is_quiet() -> None:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return parts["head"](parts["layer"](x)).mean(1)

    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
    net = Lambda(forward, layer=layer, head=nn.Linear(8, 2))
    assert dropouts_on_output(step_of(net, rows(16, 5, 8))) == []


def test_nothing_at_all() -> None:
    assert dropouts_on_output(Graph()) == []
