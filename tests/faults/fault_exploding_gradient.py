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
    Diagnosis("LT807"),  # of a spike that the run does not recover from
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


def burst(factor: float, first: int, steps: int) -> Callable[[int], float]:
    """A rate that is ``factor`` times too high for some steps: a restart, or a typing error in a schedule."""
    return lambda step: factor if first <= step < first + steps else 1.0


def grows(factor: float) -> Callable[[int], float]:
    """A decay with the wrong sign."""
    return lambda step: factor ** (step / STEPS)


def _fault(problem: Problem, strength: Strength, lost: float, rate: Callable[[int], float] | None = None) -> Fault:
    make = functools.partial(large_weights, problem) if rate is None else functools.partial(scheduled, problem, rate)
    run = Setup(f"exploding-gradient-{problem.name}-{strength}", make)
    return Fault("exploding-gradient", problem.name, strength, run, TWINS[problem.name], EXPECTS, lost=lost)


FAULTS = [
    _fault(BLOBS, "strong", lost=0.5),
    _fault(BLOBS, "middle", lost=0.5, rate=burst(40.0, 220, 40)),
    _fault(BLOBS, "weak", lost=0.05, rate=burst(40.0, 200, 7)),
    _fault(CIRCLES, "strong", lost=0.3),
    _fault(CIRCLES, "middle", lost=0.4, rate=burst(10.0, 220, 40)),
    _fault(CIRCLES, "weak", lost=0.02, rate=burst(12.0, 150, 20)),
    _fault(MNIST, "strong", lost=0.6),
    _fault(MNIST, "middle", lost=0.6, rate=burst(20.0, 220, 40)),
    _fault(MNIST, "weak", lost=0.01, rate=grows(5.0)),
]
