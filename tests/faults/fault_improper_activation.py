"""Improper activation: none where one is needed, one where none belongs, or sigmoids all the way (DeepDiagnosis)."""

from __future__ import annotations

import functools

from torch import nn

from lightning_tuning import Severity
from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.fault_oscillating_loss import TWINS
from tests.faults.learner import Learner, mlp
from tests.faults.problems import BLOBS, CIRCLES, MNIST, Problem

EXPECTS = (
    Diagnosis("LT314", where="net*"),
    Diagnosis("LT316", where="net*"),
    Diagnosis("LT317", where="net*"),
    Diagnosis("LT318", where="net*"),
    Diagnosis("LT319", Severity.INFO, where="net*"),
    Diagnosis("LT609", where="net*"),
)


def ending_in(problem: Problem, end: type[nn.Module], *arguments: int) -> Learner:
    return Learner(problem, mlp(problem, end=lambda: end(*arguments)))


def without(problem: Problem) -> Learner:
    return Learner(problem, mlp(problem, 4, act=None))


def with_sigmoids(problem: Problem) -> Learner:
    return Learner(problem, mlp(problem, 4, act=nn.Sigmoid))


def _fault(
    problem: Problem,
    strength: Strength,
    make: functools.partial[Learner],
    *,
    lost: float | None = None,
    added: float | None = None,
) -> Fault:
    run = Setup(f"improper-activation-{problem.name}-{strength}", functools.partial(make, problem))
    twin = TWINS[problem.name]
    return Fault("improper-activation", problem.name, strength, run, twin, EXPECTS, lost=lost, added=added)


def _ending(end: type[nn.Module], *arguments: int) -> functools.partial[Learner]:
    return functools.partial(_ends, end, arguments)


def _ends(end: type[nn.Module], arguments: tuple[int, ...], problem: Problem) -> Learner:
    return ending_in(problem, end, *arguments)


FAULTS = [
    _fault(BLOBS, "strong", _ending(nn.ReLU), lost=0.1),
    _fault(BLOBS, "middle", _ending(nn.Softmax, 1), added=0.4),
    _fault(BLOBS, "weak", _ending(nn.Tanh), added=0.1),
    _fault(CIRCLES, "strong", functools.partial(without), lost=0.4),
    _fault(CIRCLES, "middle", _ending(nn.ReLU), lost=0.3),
    _fault(CIRCLES, "weak", _ending(nn.Softsign), added=0.1),
    _fault(MNIST, "strong", functools.partial(with_sigmoids), lost=0.6),
    _fault(MNIST, "middle", _ending(nn.Softmax, 1), lost=0.05),
    _fault(MNIST, "weak", _ending(nn.Tanh), added=0.3),
]
