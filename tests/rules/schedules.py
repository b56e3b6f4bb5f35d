"""Schedulers and plans for the tests of the schedule rules, and the healthy ones that all of them leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lightning_tuning.rules._schedule import Horizon, Plan

Make = Callable[[Optimizer], LRScheduler]


def optimizer(lr: float = 0.1, groups: int = 1) -> Optimizer:
    return SGD([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(groups)], lr=lr, momentum=0.9)


def plan(make: Make, interval: str = "step", *, lr: float = 0.1, frequency: int = 1, **horizon: Any) -> Plan:
    """A plan for ten epochs of 500 batches, unless ``horizon`` says otherwise."""
    scheduler = make(optimizer(lr))
    length = Horizon(**{"epochs": 10, "batches": 500, **horizon})
    return Plan(scheduler, type(scheduler).__name__, interval, frequency, length)


def warmup_cosine(warmup: int, total: int, ends_at: float = 0.0) -> Make:
    """The ubiquitous lambda, that climbs again if it is stepped on beyond ``total``."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = (step - warmup) / max(1, total - warmup)
        return max(ends_at, 0.5 * (1 + math.cos(math.pi * progress)))

    return lambda o: LambdaLR(o, factor)


def warmup_linear(warmup: int, total: int) -> Make:
    def factor(step: int) -> float:
        return step / warmup if step < warmup else max(0.0, (total - step) / (total - warmup))

    return lambda o: LambdaLR(o, factor)


def warmup_constant(warmup: int) -> Make:
    return lambda o: LambdaLR(o, lambda step: min(1.0, (step + 1) / warmup))


def noam(step: int) -> float:
    return float(512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 400**-1.5))


def sequential(warmup: int, rest: int, start: float = 0.01) -> Make:
    return lambda o: SequentialLR(
        o, [LinearLR(o, start, total_iters=warmup), CosineAnnealingLR(o, rest)], milestones=[warmup]
    )


HEALTHY: dict[str, Plan] = {
    "cosine per step": plan(lambda o: CosineAnnealingLR(o, 5000)),
    "cosine per epoch": plan(lambda o: CosineAnnealingLR(o, 10), "epoch"),
    "cosine, one epoch off": plan(lambda o: CosineAnnealingLR(o, 9), "epoch"),
    "cosine, one step off": plan(lambda o: CosineAnnealingLR(o, 4999)),
    "cosine to a floor": plan(lambda o: CosineAnnealingLR(o, 10, eta_min=0.01), "epoch"),
    "cosine, accumulated": plan(lambda o: CosineAnnealingLR(o, 1250), accumulate=4),
    "one cycle per step": plan(lambda o: OneCycleLR(o, 0.1, total_steps=5000)),
    "one cycle by epochs": plan(lambda o: OneCycleLR(o, 0.1, epochs=10, steps_per_epoch=500)),
    "one cycle per epoch": plan(lambda o: OneCycleLR(o, 0.1, total_steps=10), "epoch"),
    "one cycle, three phases": plan(lambda o: OneCycleLR(o, 0.1, total_steps=5000, three_phase=True)),
    "warm restarts": plan(lambda o: CosineAnnealingWarmRestarts(o, 10, T_mult=2), "epoch", epochs=70),
    "warm restarts per step": plan(lambda o: CosineAnnealingWarmRestarts(o, 500)),
    "cyclic": plan(lambda o: CyclicLR(o, 1e-3, 0.1, step_size_up=500)),
    "cyclic, falling": plan(lambda o: CyclicLR(o, 1e-3, 0.1, step_size_up=500, mode="triangular2")),
    "steps": plan(lambda o: StepLR(o, 30), "epoch", epochs=90),
    "steps of a short fine-tune": plan(lambda o: StepLR(o, 7), "epoch", epochs=25),
    "gentle steps, one epoch": plan(lambda o: StepLR(o, 1, gamma=0.7), "epoch", epochs=1),
    "late first step, one epoch": plan(lambda o: StepLR(o, 10), "epoch", epochs=1),
    "milestones": plan(lambda o: MultiStepLR(o, [150, 225]), "epoch", epochs=300),
    "milestones per step": plan(lambda o: MultiStepLR(o, [2500, 4000])),
    "exponential": plan(lambda o: ExponentialLR(o, 0.95), "epoch"),
    "hardly exponential": plan(lambda o: ExponentialLR(o, 0.98), "epoch", batches=5),
    "exponential lambda": plan(lambda o: LambdaLR(o, lambda epoch: 0.95**epoch), "epoch", batches=5),
    "steep exponential lambda": plan(lambda o: LambdaLR(o, lambda epoch: 0.65**epoch), "epoch"),
    "multiplicative": plan(lambda o: MultiplicativeLR(o, lambda epoch: 0.9), "epoch"),
    "polynomial": plan(lambda o: PolynomialLR(o, 5000, power=0.9)),
    "warm-up and cosine": plan(warmup_cosine(250, 5000)),
    "warm-up and cosine to a floor": plan(warmup_cosine(250, 5000, ends_at=0.1)),
    "warm-up and line": plan(warmup_linear(250, 5000)),
    "warm-up, then constant": plan(warmup_constant(250)),
    "warm-up in a few epochs": plan(warmup_constant(5), "epoch", epochs=100),
    "linear warm-up alone": plan(lambda o: LinearLR(o, 0.01, total_iters=250)),
    "constant lambda": plan(lambda o: LambdaLR(o, lambda step: 1.0)),
    "constant": plan(lambda o: ConstantLR(o, factor=0.5, total_iters=100)),
    "noam": plan(lambda o: LambdaLR(o, noam), lr=1.0),
    "inverse square root": plan(
        lambda o: LambdaLR(o, lambda step: min(1.0, (step + 1) / 400, (400 / (step + 1)) ** 0.5))
    ),
    "sequential": plan(sequential(250, 4750)),
    "sequential per epoch": plan(sequential(5, 95), "epoch", epochs=100),
    "sequential, then constant": plan(
        lambda o: SequentialLR(o, [LinearLR(o, 0.01, total_iters=250), ConstantLR(o, 1.0, 0)], milestones=[250])
    ),
    "chained": plan(
        lambda o: ChainedScheduler([LinearLR(o, 0.1, total_iters=5), ExponentialLR(o, 0.97)]), "epoch", epochs=60
    ),
    "within one long epoch": plan(warmup_cosine(50, 1000), epochs=None, batches=50_000, max_steps=1000),
    "without an end, stopped early": plan(lambda o: CosineAnnealingLR(o, 100), "epoch", epochs=1000, surely=10),
    "decaying, stopped early": plan(lambda o: ExponentialLR(o, 0.95), "epoch", epochs=1000, surely=10),
    "learning rates range test": plan(lambda o: LambdaLR(o, lambda step: 1.05**step), epochs=1, batches=100),
}
