"""The rates of each schedule against torch's own, stepped by hand, and of the warm-up against its formula."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, Adam, Optimizer
from torch.optim import lr_scheduler as schedulers

from lightning_tuning.functional import schedule_lr_config
from lightning_tuning.functional.schedule_lr import scheduler_factory

TICKS = 12

OWN: dict[str, tuple[dict[str, Any], Callable[[Optimizer], Any]]] = {
    "StepLR": ({"step_size": 5}, lambda o: schedulers.StepLR(o, 5)),
    "MultiStepLR": ({"milestones": [3, 7]}, lambda o: schedulers.MultiStepLR(o, [3, 7])),
    "ExponentialLR": ({"gamma": 0.9}, lambda o: schedulers.ExponentialLR(o, 0.9)),
    "CosineAnnealingLR": ({}, lambda o: schedulers.CosineAnnealingLR(o, TICKS)),
    "PolynomialLR": ({"power": 2.0}, lambda o: schedulers.PolynomialLR(o, TICKS, 2.0)),
    "LinearLR": ({"end_factor": 0.1}, lambda o: schedulers.LinearLR(o, end_factor=0.1, total_iters=TICKS)),
    "LambdaLR": ({"lr_lambda": lambda t: 1 / (1 + t)}, lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + t))),
    "OneCycleLR": ({}, lambda o: schedulers.OneCycleLR(o, [0.1, 0.01], total_steps=TICKS)),
    "CosineAnnealingWarmRestarts": ({"T_0": 4}, lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4)),
    "CyclicLR": (
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3},
        lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 3),
    ),
}


def optimizer() -> Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.01)]
    return SGD(groups, momentum=0.9)


def rates(optimizer: Optimizer, scheduler: Any, ticks: int = TICKS) -> list[list[float]]:
    """The rates of both groups at each step."""
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(ticks):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
    return seen


@pytest.mark.parametrize("name", OWN)
def test_by_name_it_is_torchs_own(name: str) -> None:
    arguments, by_hand = OWN[name]
    ours, theirs = optimizer(), optimizer()
    config = schedule_lr_config(ours, name, arguments, ticks=TICKS)
    assert type(config["scheduler"]).__name__ == name
    assert rates(ours, config["scheduler"]) == rates(theirs, by_hand(theirs))


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("OneCycleLR", "CyclicLR")])
def test_after_a_warm_up_it_begins_anew(name: str) -> None:
    arguments, by_hand = OWN[name]
    ours, theirs = optimizer(), optimizer()
    config = schedule_lr_config(ours, name, arguments, ticks=TICKS + 4, warmup=4, warmup_start=0.2)
    seen = rates(ours, config["scheduler"], TICKS + 4)
    rise = [[lr * (0.2 + 0.8 * tick / 4) for lr in (0.1, 0.01)] for tick in range(4)]
    for got, wanted in zip(seen, rise + rates(theirs, by_hand(theirs)), strict=True):
        assert got == pytest.approx(wanted)


def test_a_list_of_functions_is_one_for_each_group() -> None:
    ours = optimizer()
    config = schedule_lr_config(ours, "LambdaLR", {"lr_lambda": [lambda t: 1.0, lambda t: 0.5**t]})
    assert rates(ours, config["scheduler"], 3) == [[0.1, 0.01], [0.1, 0.005], [0.1, 0.0025]]


@given(ticks=st.integers(1, 200), share=st.floats(0.001, 0.99), start=st.floats(0.001, 1.0))
def test_a_warm_up_rises_to_the_full_rate_and_stays(ticks: int, share: float, start: float) -> None:
    ours = optimizer()
    config = schedule_lr_config(ours, ticks=ticks, warmup=share, warmup_start=start)
    rise = max(1, round(share * ticks))
    first = [pair[0] for pair in rates(ours, config["scheduler"], rise + 3)]
    wanted = [0.1 * (start + (1 - start) * min(tick / rise, 1)) for tick in range(rise + 3)]
    assert first == pytest.approx(wanted)


def test_without_anything_the_rate_stays() -> None:
    ours = optimizer()
    assert rates(ours, schedule_lr_config(ours)["scheduler"], 3) == [[0.1, 0.01]] * 3


def test_a_length_that_was_given_stays() -> None:
    config = schedule_lr_config(optimizer(), "CosineAnnealingLR", {"T_max": 7}, ticks=100)
    assert config["scheduler"].T_max == 7
    one = schedule_lr_config(optimizer(), "OneCycleLR", {"epochs": 2, "steps_per_epoch": 5}, ticks=100)
    assert one["scheduler"].total_steps == 10


def test_a_warm_up_longer_than_the_run_leaves_a_schedule_of_one_step() -> None:
    config = schedule_lr_config(optimizer(), "CosineAnnealingLR", ticks=3, warmup=10)
    assert config["scheduler"]._schedulers[1].T_max == 1


def test_class_path_function_and_name_are_the_same() -> None:
    cls = schedulers.StepLR
    assert scheduler_factory("StepLR") is scheduler_factory("torch.optim.lr_scheduler.StepLR") is cls
    made = schedule_lr_config(optimizer(), lambda o: cls(o, 3), name="stairs", interval="epoch", frequency=2)
    assert isinstance(made["scheduler"], cls)
    assert {key: made[key] for key in ("interval", "frequency", "name")} == {
        "interval": "epoch",
        "frequency": 2,
        "name": "stairs",
    }


def test_a_metric_goes_to_the_scheduler_that_wants_one() -> None:
    config = schedule_lr_config(optimizer(), "ReduceLROnPlateau", {"patience": 0}, monitor="val_loss")
    assert (config["monitor"], config["reduce_on_plateau"]) == ("val_loss", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "StepLr"}, r"`scheduler` must be .* got 'StepLr'. Did you mean 'StepLR'\?"),
        ({"scheduler": "no.such.Thing"}, "`scheduler` must be .* got 'no.such.Thing'"),
        ({"scheduler": ""}, "`scheduler` must be .* got ''"),
        ({"scheduler": 3}, "`scheduler` must be a class, a name, a function or None, got 3"),
        ({"arguments": {"gamma": 1.0}}, "`arguments` must be empty without a `scheduler`"),
        ({"scheduler": "StepLR", "arguments": [1]}, r"`arguments` must be a dict of names and values, got \[1\]"),
        ({"interval": "steps"}, "`interval` must be 'step' or 'epoch', got 'steps'"),
        ({"frequency": 0}, "`frequency` must be an integer of at least 1, got 0"),
        ({"frequency": True}, "`frequency` must be an integer of at least 1, got True"),
        ({"warmup": -1}, "`warmup` must be a number of steps, or a fraction of the run below 1, got -1"),
        ({"warmup": 1.5}, "`warmup` must be .* got 1.5"),
        ({"warmup": math.nan}, "`warmup` must be .* got nan"),
        ({"warmup": math.inf}, "`warmup` must be .* got inf"),
        ({"warmup": 0.1}, "`warmup` must be a number of steps where the length of the run is not known, got 0.1"),
        ({"warmup_start": 0}, "`warmup_start` must be above 0 and at most 1, got 0"),
        ({"warmup_start": math.nan}, "`warmup_start` must be above 0 and at most 1, got nan"),
        ({"monitor": ""}, "`monitor` must be a name or None, got ''"),
        ({"name": 3}, "`name` must be a name or None, got 3"),
        ({"scheduler": "OneCycleLR", "warmup": 5}, "`warmup` must be 0 with OneCycleLR, which rises by itself"),
        ({"scheduler": "CosineAnnealingLR"}, "`arguments` must say 'T_max' of CosineAnnealingLR"),
        ({"scheduler": "ReduceLROnPlateau"}, "`monitor` must be the name of the metric"),
        ({"scheduler": "ReduceLROnPlateau", "monitor": "x", "warmup": 2}, "`warmup` must be 0 with a `monitor`"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_lr_config(optimizer(), **arguments)


def test_adams_own_momentum_cycles_with_one_cycle() -> None:
    adam = Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    config = schedule_lr_config(adam, "OneCycleLR", ticks=10)
    betas = []
    for _ in range(9):
        adam.step()
        config["scheduler"].step()
        betas.append(adam.param_groups[0]["betas"][0])
    assert min(betas) == pytest.approx(0.85)
