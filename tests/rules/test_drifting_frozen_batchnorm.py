from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.drifting_frozen_batchnorm import drifting_batch_norms
from lightning_tuning.trace import Graph
from tests.rules.graphs import classes, rows, step_of


class FineTuned(nn.Module):
    def __init__(self, **arguments: object) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, **arguments), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def without_gradients(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        features = net.backbone(x)
    return F.cross_entropy(net.head(features), y)


@pytest.mark.parametrize("loss", [classes, without_gradients])
def test_frozen_and_moving(loss) -> None:
    found = drifting_batch_norms(step_of(FineTuned(), rows(), loss))
    assert found is not None
    assert found.where == "backbone.1"


def evaluated() -> nn.Module:
    net = FineTuned()
    net.backbone.eval()
    net.train = lambda mode=True: net  # type: ignore[method-assign]  # keeps it so
    return net


def trainable() -> nn.Module:
    return FineTuned().requires_grad_(True)


def shift_trained() -> nn.Module:
    net = FineTuned()
    net.backbone[1].bias.requires_grad_(True)
    return net


@pytest.mark.parametrize(
    "make",
    [
        evaluated,
        trainable,
        shift_trained,
        lambda: FineTuned(affine=False),
        lambda: FineTuned(track_running_stats=False),
    ],
    ids=["evaluated", "trainable", "shift trained", "no affine", "no tracking"],
)
def test_quiet(make) -> None:
    assert drifting_batch_norms(step_of(make(), rows())) is None


class Pair(nn.Module):
    """A trained net and a frozen copy of it, which follows by averages: a teacher, a momentum encoder."""

    def __init__(self, names: tuple[str, str], *, wrapped: bool = False) -> None:
        super().__init__()
        self.names = names
        student = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        teacher = copy.deepcopy(student).requires_grad_(False)
        setattr(self, names[0], student)
        setattr(self, names[1], nn.ModuleDict({"module": teacher}) if wrapped else teacher)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        student, teacher = (getattr(self, name) for name in self.names)
        with torch.no_grad():
            target = (teacher["module"] if isinstance(teacher, nn.ModuleDict) else teacher)(x)
        return student(x), target


def pull(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    one, other = net(x)
    return F.mse_loss(one, other)


@pytest.mark.parametrize(
    ("names", "wrapped", "found"),
    [
        (("student", "teacher"), False, False),
        (("encoder_q", "encoder_k"), False, False),
        (("online", "target"), False, False),
        (("net", "ema"), True, False),
        (("layer1", "layer2"), False, True),
    ],
)
def test_frozen_twins(names: tuple[str, str], *, wrapped: bool, found: bool) -> None:
    """A teacher is meant to follow; a frozen second layer is not a teacher of the first."""
    assert (drifting_batch_norms(step_of(Pair(names, wrapped=wrapped), rows(), pull)) is not None) == found


def test_parameters_that_are_toggled_are_quiet() -> None:
    toggled = {"backbone.1.weight", "backbone.1.bias"}
    assert drifting_batch_norms(step_of(FineTuned(), rows()), toggled=toggled) is None


def test_nothing_at_all() -> None:
    assert drifting_batch_norms(Graph()) is None
