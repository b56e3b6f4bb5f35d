"""Vanishing gradient: eight layers of sigmoids, or of ReLUs that begin with torch's small weights (AUTOTRAINER)."""

from __future__ import annotations

import functools

from torch import nn

from lightning_tuning import Severity
from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.learner import Learner, healthy, mlp, torch_default
from tests.faults.problems import BLOBS, CIRCLES, MNIST, PROBLEMS, Problem

DEPTH = 8
EXPECTS = (
    Diagnosis("LT602"),
    Diagnosis("LT202"),
    Diagnosis("LT201"),
    Diagnosis("LT610", Severity.INFO),
)
TWINS = {p.name: Setup(f"{p.name}-8-layers", functools.partial(healthy, p, DEPTH)) for p in PROBLEMS}


def sigmoids(problem: Problem) -> Learner:
    return Learner(problem, mlp(problem, DEPTH, act=nn.Sigmoid))


def small_weights(problem: Problem, gain: float) -> Learner:
    return Learner(problem, mlp(problem, DEPTH, init=torch_default(gain)))


def _fault(problem: Problem, strength: Strength, lost: float, gain: float | None = None) -> Fault:
    module = functools.partial(sigmoids, problem) if gain is None else functools.partial(small_weights, problem, gain)
    name = f"vanishing-gradient-{problem.name}-{strength}"
    times = {"strong": 1.0, "middle": 1.5, "weak": 2.0 if problem is BLOBS else 1.5}[
        strength
    ]  # until it learns at last
    twin = TWINS[problem.name]
    return Fault(
        "vanishing-gradient",
        problem.name,
        strength,
        Setup(name, module, {"max_epochs": int(times * problem.epochs)}),
        twin,
        EXPECTS,
        lost=lost,
    )


FAULTS = [
    _fault(BLOBS, "strong", lost=0.5),
    _fault(BLOBS, "middle", lost=0.3, gain=1.0),
    _fault(BLOBS, "weak", lost=0.02, gain=1.06),
    _fault(CIRCLES, "strong", lost=0.4),
    _fault(CIRCLES, "middle", lost=0.3, gain=0.9),
    _fault(CIRCLES, "weak", lost=0.005, gain=1.0),
    _fault(MNIST, "strong", lost=0.6),
    _fault(MNIST, "middle", lost=0.3, gain=1.0),
    _fault(MNIST, "weak", lost=0.05, gain=1.1),
]
