"""Exploding gradient: weights too large from the start, or a learning rate that leaps or grows in mid-run."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR

from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.learner import Learner, healthy, mlp, scaled_he
from tests.faults.problems import BLOBS, CIRCLES, MNIST, PROBLEMS, STEPS, Problem

DEPTH = 6
_CAUSES = ("exploding-gradient", "learning-rate", "overflow")
EXPECTS = (
    Diagnosis("LT601"),
    Diagnosis("LT802"),
    Diagnosis("LT701", causes=_CAUSES),
    Diagnosis("LT702", causes=_CAUSES),
    Diagnosis("LT703", causes=_CAUSES),
)
TWINS = {p.name: Setup(f"{p.name}-6-layers", functools.partial(healthy, p, DEPTH)) for p in PROBLEMS}


def large_weights(problem: Problem) -> Learner:
    return Learner(problem, mlp(problem, DEPTH, init=scaled_he(4.0)))


def scheduled(problem: Problem, factor: Callable[[int], float]) -> Learner:
    net = mlp(problem, DEPTH, init=scaled_he())
    return Learner(problem, net, schedule=lambda optimizer: LambdaLR(optimizer, factor))


def leaps(factor: float, step: int) -> float:
    """A restart at far too high a rate."""
    return factor if 220 <= step < 260 else 1.0


def grows(factor: float, step: int) -> float:
    """A decay with the wrong sign."""
    return factor ** (step / STEPS)


def _faults(problem: Problem, *, strong: float, middle: float, weak: float, leap: float, growth: float) -> list[Fault]:
    def fault(strength: Strength, lost: float, make: Callable[[], Learner]) -> Fault:
        run = Setup(f"exploding-gradient-{problem.name}-{strength}", make)
        return Fault("exploding-gradient", problem.name, strength, run, TWINS[problem.name], EXPECTS, lost=lost)

    return [
        fault("strong", strong, functools.partial(large_weights, problem)),
        fault("middle", middle, functools.partial(scheduled, problem, functools.partial(leaps, leap))),
        fault("weak", weak, functools.partial(scheduled, problem, functools.partial(grows, growth))),
    ]


FAULTS = [
    *_faults(BLOBS, strong=0.5, middle=0.5, weak=0.02, leap=40.0, growth=12.0),
    *_faults(CIRCLES, strong=0.4, middle=0.4, weak=0.01, leap=10.0, growth=7.0),
    *_faults(MNIST, strong=0.6, middle=0.1, weak=0.01, leap=10.0, growth=5.0),
]
