"""Rates of a warm-up and a schedule against the line counted by hand and torch's own scheduler; what is refused."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from lightning_tuning.functional.schedule_lr import (
    length_argument,
    resolve_scheduler,
    schedule_lr_config,
    warm_up_before,
    warm_up_ticks,
)

LR = 0.2


def sgd(lr: Any = LR, groups: int = 1) -> torch.optim.Optimizer:
    parameters = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr / (1 + g)} for g in range(groups)]
    return torch.optim.SGD(parameters, momentum=0.9)


def rates(scheduler: LRScheduler, ticks: int) -> list[list[float]]:
    """Of every group, before the first tick and after each."""
    optimizer = scheduler.optimizer
    found = [[float(group["lr"]) for group in optimizer.param_groups]]
    for _ in range(ticks):
        optimizer.step()
        scheduler.step()
        found.append([float(group["lr"]) for group in optimizer.param_groups])
    return found


def close(found: list[list[float]], expected: list[list[float]]) -> None:
    assert [pytest.approx(row, rel=1e-9, abs=1e-12) for row in expected] == found


def climb(length: int, start: float | None, groups: int = 1) -> list[list[float]]:
    low = 1 / (length + 1) if start is None else start
    return [[LR / (1 + g) * (low + (1 - low) * k / length) for g in range(groups)] for k in range(length)]


class Halving(LRScheduler):
    """Knows nothing but the rate that it finds."""

    def get_lr(self) -> list[Any]:
        factor = 1.0 if self.last_epoch == 0 else 0.5
        return [group["lr"] * factor for group in self.optimizer.param_groups]


def halving_by_lambda(optimizer: Any, scale: float = 0.5) -> LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, lambda tick: scale**tick)


def a_third_each(tick: int) -> float:
    return 3.0**-tick


def sequence(optimizer: Any) -> LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 3), lr_scheduler.ExponentialLR(optimizer, 0.7)]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


KNOWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "StepLR": ("StepLR", {"step_size": 3}),
    "MultiStepLR": ("MultiStepLR", {"milestones": [2, 7], "gamma": 0.5}),
    "ConstantLR": ("ConstantLR", {"total_iters": 4}),
    "LinearLR": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 8}),
    "ExponentialLR": ("ExponentialLR", {"gamma": 0.8}),
    "PolynomialLR": ("PolynomialLR", {"total_iters": 9, "power": 2.0}),
    "CosineAnnealingLR": ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.01}),
    "CosineAnnealingWarmRestarts": ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}),
    "CyclicLR": ("CyclicLR", {"base_lr": 0.05, "max_lr": 0.2, "step_size_up": 3}),
    "LambdaLR": ("LambdaLR", {"lr_lambda": lambda tick: 1 / (1 + tick)}),
    "MultiplicativeLR": ("MultiplicativeLR", {"lr_lambda": lambda tick: 0.9}),
    "class": (CosineAnnealingLR, {"T_max": 8}),
    "factory": (halving_by_lambda, {"scale": 0.6}),
    "dotted": ("torch.optim.lr_scheduler.StepLR", {"step_size": 2}),
    "partial": (functools.partial(lr_scheduler.StepLR, step_size=4), {}),
    "lambda": (lambda optimizer: lr_scheduler.StepLR(optimizer, 2), {}),
    "sequence": (sequence, {}),
    "of the user": (Halving, {}),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", KNOWN)
def test_without_a_warmup_it_is_the_scheduler_itself(kind: str, groups: int) -> None:
    scheduler, arguments = KNOWN[kind]
    config = schedule_lr_config(sgd(groups=groups), scheduler, arguments)
    plain = resolve_scheduler(scheduler)(sgd(groups=groups), **arguments)
    assert rates(config["scheduler"], 12) == rates(plain, 12)


# It finds the full rate, and keeps it for its first tick; see `warm_up_before`.
LATER = {"of the user": 1}


@pytest.mark.parametrize("start", [None, 0.01, 1.0])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("kind", KNOWN)
def test_a_warmup_is_a_line_and_then_comes_the_schedule(kind: str, length: int, start: float | None) -> None:
    scheduler, arguments = KNOWN[kind]
    config = schedule_lr_config(sgd(groups=2), scheduler, arguments, warmup=length, warmup_start=start)
    plain = resolve_scheduler(scheduler)(sgd(groups=2), **arguments)
    own = rates(plain, 12)
    line = climb(length, start, 2)
    if kind == "CyclicLR":  # which puts its own first rate into the optimizer: the line leads there
        line = [[0.05 / (LR / (1 + g)) * rate for g, rate in enumerate(row)] for row in line]
    full = [[group["initial_lr"] for group in plain.optimizer.param_groups]] * LATER.get(kind, 0)
    close(rates(config["scheduler"], length + len(full) + 12), [*line, *full, *own])


@given(st.integers(1, 40), st.integers(2, 60), st.floats(1e-4, 1.0))
def test_any_warmup_before_a_cosine(length: int, ticks: int, start: float) -> None:
    scheduler = schedule_lr_config(sgd(), "CosineAnnealingLR", ticks=ticks + length, warmup=length, warmup_start=start)[
        "scheduler"
    ]
    cosine = [[LR * (1 + math.cos(math.pi * k / ticks)) / 2] for k in range(ticks + 1)]
    found = rates(scheduler, length + ticks)
    assert found == [pytest.approx(row, rel=1e-6, abs=1e-9) for row in [*climb(length, start), *cosine]]


def test_a_warmup_alone_ends_in_the_optimizers_rate() -> None:
    scheduler = schedule_lr_config(sgd(groups=2), None, warmup=3)["scheduler"]
    close(rates(scheduler, 6), [*climb(3, None, 2), *[[LR, LR / 2]] * 4])


def test_a_rate_in_a_tensor_stays_the_tensor() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=torch.tensor(LR))
    rate = optimizer.param_groups[0]["lr"]
    scheduler = schedule_lr_config(optimizer, "CosineAnnealingLR", ticks=8, warmup=2)["scheduler"]
    plain = schedule_lr_config(sgd(), "CosineAnnealingLR", ticks=8, warmup=2)["scheduler"]
    assert rates(scheduler, 8) == [pytest.approx(row, abs=1e-6) for row in rates(plain, 8)]
    assert optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize(
    ("scheduler", "arguments", "name"),
    [
        ("CosineAnnealingLR", {}, "T_max"),
        ("CosineAnnealingLR", {"T_max": 3}, None),
        ("CosineAnnealingLR", {"T_max": None}, "T_max"),
        ("OneCycleLR", {}, "total_steps"),
        ("OneCycleLR", {"epochs": 2, "steps_per_epoch": 3}, None),
        ("OneCycleLR", {"epochs": 2}, "total_steps"),
        ("PolynomialLR", {"power": 2.0}, "total_iters"),
        ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1}, "total_iters"),
        ("ConstantLR", {}, None),
        ("CosineAnnealingWarmRestarts", {"T_0": 3}, None),
        ("StepLR", {"step_size": 3}, None),
        (functools.partial(CosineAnnealingLR, T_max=4), {}, None),
        (lambda optimizer, num_warmup_steps, num_training_steps: None, {"num_warmup_steps": 1}, "num_training_steps"),
        (None, None, None),
    ],
)
def test_the_length_that_is_open(scheduler: Any, arguments: Any, name: str | None) -> None:
    assert length_argument(scheduler, arguments) == name


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [("CosineAnnealingLR", "T_max"), ("PolynomialLR", "total_iters"), ("LinearLR", "total_iters")],
)
@pytest.mark.parametrize(("warmup", "left"), [(0, 20), (0.0, 20), (5, 15), (0.25, 15), (20, 1), (50, 1)])
def test_the_length_is_what_the_warmup_leaves(scheduler: str, name: str, warmup: float, left: int) -> None:
    built: Any = schedule_lr_config(sgd(), scheduler, ticks=20, warmup=warmup)["scheduler"]
    assert getattr(built._schedulers[1] if warmup else built, name) == left


def test_one_cycle_peaks_at_the_optimizers_own_rates_and_fits_the_run() -> None:
    found = rates(schedule_lr_config(sgd(groups=2), "OneCycleLR", ticks=20)["scheduler"], 20)
    for group in range(2):
        assert max(row[group] for row in found) == pytest.approx(LR / (1 + group))
    given_peak = rates(schedule_lr_config(sgd(), "OneCycleLR", {"max_lr": 0.9}, ticks=20)["scheduler"], 20)
    assert max(row[0] for row in given_peak) == pytest.approx(0.9)


@pytest.mark.parametrize("ticks", [0, 1, 2])
@pytest.mark.parametrize("scheduler", ["CosineAnnealingLR", "OneCycleLR", "PolynomialLR", "LinearLR"])
def test_a_run_of_no_length_to_speak_of(scheduler: str, ticks: int) -> None:
    found = rates(schedule_lr_config(sgd(), scheduler, ticks=ticks)["scheduler"], ticks)
    assert all(math.isfinite(rate) for row in found for rate in row)


def test_lambdas_by_name_and_per_group() -> None:
    found = rates(
        schedule_lr_config(sgd(groups=2), "LambdaLR", {"lr_lambda": ["math.exp", "math.cosh"]})["scheduler"], 1
    )
    close(found, [[LR, LR / 2], [LR * math.e, LR / 2 * math.cosh(1)]])
    single = rates(schedule_lr_config(sgd(), "LambdaLR", {"lr_lambda": "math.exp"})["scheduler"], 1)
    close(single, [[LR], [LR * math.e]])


def test_what_lightning_is_told() -> None:
    config = schedule_lr_config(sgd(), "StepLR", {"step_size": 1}, interval="epoch", frequency=2, name="rate")
    assert {key: value for key, value in config.items() if key != "scheduler"} == {
        "interval": "epoch",
        "frequency": 2,
        "name": "rate",
    }


@pytest.mark.parametrize(
    ("warmup", "ticks", "length"), [(0, None, 0), (7, 3, 7), (0.1, 100, 10), (0.001, 10, 1), (0.0, 9, 0)]
)
def test_ticks_of_a_warmup(warmup: float, ticks: int | None, length: int) -> None:
    assert warm_up_ticks(warmup, ticks) == length


NO_SCHEDULER = (
    "`scheduler` must be a class of torch.optim.lr_scheduler or its name, a dotted path, or a function of the "
)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"warmup": -1}, "`warmup` must be an integer of at least 0, or a fraction below 1, got -1."),
    ({"warmup": 1.0}, "`warmup` must be an integer of at least 0, or a fraction below 1, got 1.0."),
    ({"warmup": math.nan}, "`warmup` must be an integer of at least 0, or a fraction below 1, got nan."),
    ({"warmup": True}, "`warmup` must be an integer of at least 0, or a fraction below 1, got True."),
    ({"warmup": "5"}, "`warmup` must be an integer of at least 0, or a fraction below 1, got '5'."),
    ({"warmup_start": 0.0}, "`warmup_start` must be None, or above 0 and at most 1, got 0.0."),
    ({"warmup_start": math.nan}, "`warmup_start` must be None, or above 0 and at most 1, got nan."),
    ({"warmup_start": math.inf}, "`warmup_start` must be None, or above 0 and at most 1, got inf."),
    ({"interval": "steps"}, "`interval` must be 'step' or 'epoch', got 'steps'."),
    ({"frequency": 0}, "`frequency` must be an integer of at least 1, got 0."),
    ({"arguments": [3]}, "`arguments` must be None or a dict, got [3]."),
    ({"scheduler": None}, "`scheduler` must be given, unless it is for a warm-up alone (`warmup` above 0, no"),
    ({"scheduler": None, "warmup": 3}, "`scheduler` must be given, unless it is for a warm-up alone (`warmup` above"),
    ({"scheduler": "StepRL"}, f"{NO_SCHEDULER}optimizer, got 'StepRL'. Did you mean 'StepLR'?"),
    ({"scheduler": 7}, "`scheduler` must be a class of torch.optim.lr_scheduler or its name, a dotted path, or"),
    ({"scheduler": "no.such"}, "`scheduler` and `lr_lambda` must be importable, got 'no.such': No module named 'no'."),
    ({"scheduler": ".x"}, "`scheduler` and `lr_lambda` must be importable, got '.x': Empty module name."),
    (
        {"scheduler": "ReduceLROnPlateau"},
        "`scheduler` must not wait for a metric, got ReduceLROnPlateau: use PlateauLR",
    ),
    ({"arguments": {}}, "`arguments` must be those of StepLR without the optimizer, got {}: missing a required argu"),
    (
        {"arguments": {"step_sice": 3}},
        "`arguments` must be those of StepLR without the optimizer, got {'step_sice': 3}",
    ),
    (
        {"scheduler": "OneCycleLR", "arguments": {}, "warmup": 3},
        "`warmup` must be 0 with OneCycleLR, which warms up by",
    ),
    ({"warmup": 0.1}, "`warmup` must be a number of ticks where the length of the run is not known, got 0.1."),
    ({"scheduler": "CosineAnnealingLR", "arguments": {}}, "`T_max` must be given in `arguments` where the length of"),
    (
        {"scheduler": lambda o: 3, "arguments": {}},
        "`scheduler` must make a scheduler of the optimizer that it is given",
    ),
    (
        {"scheduler": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2), "arguments": {}},
        "`scheduler` must make a scheduler of the optimizer that it is given, other than ReduceLROnPlateau (for which",
    ),
    (
        {"scheduler": lambda o: lr_scheduler.StepLR(sgd(), 3), "arguments": {}},
        "`scheduler` must make a scheduler of the optimizer that it is given",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    given_arguments = {"scheduler": "StepLR", "arguments": {"step_size": 3}, **arguments}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        schedule_lr_config(sgd(), **given_arguments)


def test_what_cannot_come_second() -> None:
    optimizer = sgd()
    with pytest.raises(ValueError, match="must be 0 with OneCycleLR"):
        warm_up_before(lr_scheduler.OneCycleLR(optimizer, 0.1, 10), 3)
    with pytest.raises(ValueError, match="must be 0 with ChainedScheduler"):
        warm_up_before(lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(optimizer, 3)]), 3)
