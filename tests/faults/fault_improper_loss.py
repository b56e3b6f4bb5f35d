"""Improper loss: it does not fit what the net gives, or the shapes, or it is a sum where a mean is meant."""

from __future__ import annotations

import functools

import torch.nn.functional as F
from torch import Tensor

from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.fault_oscillating_loss import TWINS
from tests.faults.learner import Learner, Loss, mlp, sgd
from tests.faults.problems import BLOBS, CIRCLES, MNIST, Problem

EXPECTS = tuple(map(Diagnosis, ("LT105", "LT314", "LT315", "LT317", "LT410")))


def nll_of_logits(outputs: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(outputs, y)


def binary_of_probabilities(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.softmax(1), F.one_hot(y, outputs.shape[1]).float())


def entropy_of_probabilities(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs.softmax(1), y)


def squares_of_all_pairs(outputs: Tensor, y: Tensor) -> Tensor:
    return ((outputs - y.float()) ** 2).mean()  # [B, 1] - [B]


def softmax_of_one(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy(outputs.softmax(-1).squeeze(-1), y.float())


def binary_sum(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), y.float(), reduction="sum")


def entropy_sum(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, reduction="sum")


def learner(problem: Problem, loss: Loss, lr: float) -> Learner:
    return Learner(problem, mlp(problem), sgd(lr), loss=loss)


def _fault(
    problem: Problem,
    strength: Strength,
    loss: Loss,
    *,
    lr: float = 0.0,
    lost: float | None = None,
    added: float | None = None,
) -> Fault:
    run = Setup(f"improper-loss-{problem.name}-{strength}", functools.partial(learner, problem, loss, lr or problem.lr))
    twin = TWINS[problem.name]
    return Fault("improper-loss", problem.name, strength, run, twin, EXPECTS, lost=lost, added=added)


FAULTS = [
    _fault(BLOBS, "strong", nll_of_logits, lost=0.5),
    _fault(BLOBS, "middle", binary_of_probabilities, lost=0.05),
    _fault(BLOBS, "weak", entropy_of_probabilities, added=0.05),
    _fault(CIRCLES, "strong", squares_of_all_pairs, lost=0.4),
    _fault(CIRCLES, "middle", softmax_of_one, lost=0.4),
    _fault(CIRCLES, "weak", binary_sum, lr=0.02, lost=0.01),
    _fault(MNIST, "strong", entropy_sum, lost=0.6),
    _fault(MNIST, "middle", entropy_of_probabilities, lost=0.05),
    _fault(MNIST, "weak", entropy_sum, lr=0.002, lost=0.01),
]
