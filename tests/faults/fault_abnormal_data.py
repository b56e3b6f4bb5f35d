"""Abnormal data: raw scale, far from 0, NaN, zeros for samples, sorted by class, one batch for all (UMLAUT)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.fault_oscillating_loss import TWINS
from tests.faults.learner import Learner, mlp
from tests.faults.problems import BLOBS, CIRCLES, MNIST, Problem
from tests.quiet.data import seeded

EXPECTS = tuple(
    Diagnosis(code, where=where)
    for code, where in (("LT101", "batch[[]0]"), ("LT102", "net.0"), ("LT106", "batch[[]1]"), ("LT113", "batch[[]0]"))
)
Spoil = Callable[[Tensor], Tensor]


def lost_samples(share: float, x: Tensor) -> Tensor:
    """Samples that could not be read, and are zeros now."""
    return x * (torch.rand(len(x), 1, generator=seeded(5)) >= share)


def with_nan(x: Tensor) -> Tensor:
    return x.masked_fill(torch.rand(x.shape, generator=seeded(6)) < 0.002, float("nan"))


def scaled(factor: float, x: Tensor) -> Tensor:
    return factor * x


def moved(by: float, x: Tensor) -> Tensor:
    return x + by


def spoiled(problem: Problem, spoil: Spoil) -> DataLoader:
    x, y = problem.data()[0].tensors
    return problem.loader(TensorDataset(spoil(x), y))


def sorted_by_class(problem: Problem) -> DataLoader:
    x, y = problem.data()[0].tensors
    order = y.argsort(stable=True)
    return problem.loader(TensorDataset(x[order], y[order]), shuffle=False)


def one_batch(problem: Problem) -> DataLoader:
    x, y = problem.data()[0].tensors
    same = torch.arange(problem.batch_size).repeat(len(x) // problem.batch_size)
    return problem.loader(TensorDataset(x[same], y[same]), shuffle=False)


def learner(problem: Problem, train: Callable[[Problem], DataLoader]) -> Learner:
    return Learner(problem, mlp(problem), train=functools.partial(train, problem))


def _spoils(spoil: Spoil) -> Callable[[Problem], DataLoader]:
    return functools.partial(spoiled, spoil=spoil)


def _fault(
    problem: Problem,
    strength: Strength,
    train: Callable[[Problem], DataLoader],
    *,
    lost: float | None = None,
    added: float | None = None,
) -> Fault:
    run = Setup(f"abnormal-data-{problem.name}-{strength}", functools.partial(learner, problem, train))
    twin = TWINS[problem.name]
    return Fault("abnormal-data", problem.name, strength, run, twin, EXPECTS, lost=lost, added=added)


FAULTS = [
    _fault(BLOBS, "strong", _spoils(functools.partial(scaled, 100.0)), lost=0.5),
    _fault(BLOBS, "middle", sorted_by_class, lost=0.05),
    _fault(BLOBS, "weak", _spoils(functools.partial(lost_samples, 0.8)), lost=0.01),
    _fault(CIRCLES, "strong", _spoils(with_nan), lost=0.15),
    _fault(CIRCLES, "middle", _spoils(functools.partial(moved, 10.0)), lost=0.3),
    _fault(CIRCLES, "weak", one_batch, lost=0.01),
    _fault(MNIST, "strong", _spoils(functools.partial(scaled, 255.0)), lost=0.6),
    _fault(MNIST, "middle", _spoils(functools.partial(lost_samples, 0.8)), lost=0.05),
    _fault(MNIST, "weak", _spoils(functools.partial(lost_samples, 0.6)), lost=0.02),
]
