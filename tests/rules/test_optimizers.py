"""What an optimizer is by effect, and what its groups are called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.rules._optimizers import by_optimizer, elements, listing, parameter_groups, parameter_names


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2))]


class Other(torch.optim.Optimizer):
    """Any optimizer of somebody else's, known by the settings that it has."""

    def __init__(self, **defaults: Any) -> None:
        super().__init__(weights(), {"lr": 1e-3, **defaults})


@pytest.mark.parametrize(
    ("optimizer", "family", "decoupled"),
    [
        (torch.optim.Adam(weights()), "adam", False),
        (torch.optim.Adam(weights(), decoupled_weight_decay=True), "adam", True),
        (torch.optim.AdamW(weights()), "adam", True),
        (torch.optim.NAdam(weights()), "adam", False),
        (torch.optim.RAdam(weights()), "adam", False),
        (torch.optim.Adamax(weights()), "adam", False),
        (torch.optim.SGD(weights()), "sgd", None),
        (torch.optim.Adadelta(weights()), "adadelta", None),
        (torch.optim.RMSprop(weights()), "other", None),
        (torch.optim.Adagrad(weights()), "other", None),
        (torch.optim.LBFGS(weights()), "other", None),
        (torch.optim.Adafactor(weights()), "other", None),
        (torch.optim.Rprop(weights()), "other", None),
        (torch.optim.Muon(weights()), "other", None),
        (Other(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, correct_bias=True), "adam", None),
        (Other(betas=(0.9, 0.99), weight_decay=0.0), "other", None),  # Lion
        (Other(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, d0=1e-6, d_coef=1.0), "other", None),  # Prodigy
        (
            Other(betas=(0.9, 0.99), eps=1e-8, r=0.0, weight_lr_power=2.0, weight_sum=0.0),
            "other",
            None,
        ),  # schedule-free
        (Other(momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3), "other", None),  # LARS
        (Other(momentum=0.9, weight_decay=0.0, nesterov=False), "sgd", None),
    ],
)
def test_family(optimizer: Any, family: str, decoupled: bool | None) -> None:
    (group,) = parameter_groups([optimizer], {})
    assert (group.family, group.decoupled) == (family, decoupled)


def test_names_and_places() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    stranger = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([{"params": net[0].parameters()}, {"params": [*net[1].parameters(), stranger]}])
    groups = parameter_groups([optimizer], parameter_names(net))
    assert [group.where for group in groups] == ["AdamW group 0", "AdamW group 1"]
    assert [[name for name, _ in group.parameters] for group in groups] == [
        ["0.weight", "0.bias"],
        ["1.weight", "1.bias", "parameter 2"],
    ]
    several = parameter_groups([optimizer, torch.optim.SGD(weights())], {})
    assert [group.where for group in several] == ["AdamW 0 group 0", "AdamW 0 group 1", "SGD 1 group 0"]
    assert [len(own) for own in by_optimizer(several)] == [2, 1]


def test_a_wrapper_is_seen_through() -> None:
    wrapper = SimpleNamespace(optimizer=torch.optim.SGD(weights()), param_groups=[])
    assert [group.where for group in parameter_groups([wrapper], {})] == ["SGD group 0"]


def test_a_bare_optimizer_is_unknown() -> None:
    (group,) = parameter_groups([SimpleNamespace(param_groups=[{"params": weights()}])], {})
    assert (group.family, group.lr, group.peak_lr, group.warms_up) == ("other", 0.0, 0.0, False)


def test_no_optimizers() -> None:
    assert parameter_groups([], {}) == []
    assert list(by_optimizer([])) == []


def test_learning_rates() -> None:
    optimizer = torch.optim.Adam(weights(), lr=torch.tensor(0.5), foreach=False)
    (group,) = parameter_groups([optimizer], {})
    assert group.lr == 0.5
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1)
    (group,) = parameter_groups([optimizer], {})
    assert group.warms_up
    assert group.peak_lr == pytest.approx(0.5)
    assert group.number("betas", default=-1.0) == -1.0


def test_words() -> None:
    assert listing(["a"]) == "`a`"
    assert listing(list("abcde")) == "`a`, `b`, `c` and 2 more"
    assert elements(nn.parameter.UninitializedParameter()) == 0
