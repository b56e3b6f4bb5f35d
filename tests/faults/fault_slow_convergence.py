"""Slow convergence: a learning rate 10 to 10 000 times too small (AUTOTRAINER)."""

from __future__ import annotations

import functools

from lightning_tuning import Severity
from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.fault_oscillating_loss import TWINS
from tests.faults.learner import Learner, mlp, sgd
from tests.faults.problems import BLOBS, CIRCLES, MNIST, PROBLEMS, Problem

EXPECTS = (
    Diagnosis("LT605"),
    Diagnosis("LT408"),
    Diagnosis("LT407", Severity.INFO),
    Diagnosis("LT801"),
    Diagnosis("LT806", Severity.INFO),
)


LONGER = {p.name: {"max_epochs": p.epochs * 3 // 2} for p in PROBLEMS}  # and still not there


def slow(problem: Problem, factor: float) -> Learner:
    return Learner(problem, mlp(problem), sgd(factor * problem.lr))


def _fault(problem: Problem, strength: Strength, factor: float, lost: float) -> Fault:
    run = Setup(
        f"slow-convergence-{problem.name}-{strength}", functools.partial(slow, problem, factor), LONGER[problem.name]
    )
    return Fault("slow-convergence", problem.name, strength, run, TWINS[problem.name], EXPECTS, lost=lost)


FAULTS = [
    _fault(BLOBS, "strong", 1e-4, lost=0.5),
    _fault(BLOBS, "middle", 0.05, lost=0.1),
    _fault(BLOBS, "weak", 0.1, lost=0.03),
    _fault(CIRCLES, "strong", 1e-4, lost=0.4),
    _fault(CIRCLES, "middle", 0.03, lost=0.1),
    _fault(CIRCLES, "weak", 0.08, lost=0.005),
    _fault(MNIST, "strong", 1e-4, lost=0.6),
    _fault(MNIST, "middle", 0.03, lost=0.2),
    _fault(MNIST, "weak", 0.05, lost=0.05),
]
