"""Oscillating loss: Adam with a learning rate that throws the weights about without breaking them (AUTOTRAINER)."""

from __future__ import annotations

import functools

from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.learner import Learner, adam, healthy, mlp
from tests.faults.problems import BLOBS, CIRCLES, MNIST, PROBLEMS, Problem

EXPECTS = (
    Diagnosis("LT803"),
    Diagnosis("LT408"),
    Diagnosis("LT511"),
    Diagnosis("LT604"),
)
TWINS = {p.name: Setup(f"{p.name}-3-layers", functools.partial(healthy, p)) for p in PROBLEMS}


def fast(problem: Problem, lr: float) -> Learner:
    return Learner(problem, mlp(problem), adam(lr))


def _fault(problem: Problem, strength: Strength, lr: float, lost: float) -> Fault:
    run = Setup(f"oscillating-loss-{problem.name}-{strength}", functools.partial(fast, problem, lr))
    return Fault("oscillating-loss", problem.name, strength, run, TWINS[problem.name], EXPECTS, lost=lost)


FAULTS = [
    _fault(BLOBS, "strong", 1.0, lost=0.5),
    _fault(BLOBS, "middle", 0.3, lost=0.2),
    _fault(BLOBS, "weak", 0.12, lost=0.01),
    _fault(CIRCLES, "strong", 1.0, lost=0.4),
    _fault(CIRCLES, "middle", 0.4, lost=0.2),
    _fault(CIRCLES, "weak", 0.2, lost=0.01),
    _fault(MNIST, "strong", 1.0, lost=0.6),
    _fault(MNIST, "middle", 0.15, lost=0.2),
    _fault(MNIST, "weak", 0.05, lost=0.02),
]
