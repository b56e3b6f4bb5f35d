"""Dying ReLU: hidden biases so far below 0 that few units, or none, answer to any sample."""

from __future__ import annotations

import functools

from torch import nn

from tests.faults.fault import Diagnosis, Fault, Setup, Strength
from tests.faults.learner import Learner, healthy, mlp, scaled_he
from tests.faults.problems import BLOBS, CIRCLES, MNIST, PROBLEMS, Problem

DEPTH = 4
EXPECTS = (Diagnosis("LT608"),)
TWINS = {p.name: Setup(f"{p.name}-4-layers", functools.partial(healthy, p, DEPTH)) for p in PROBLEMS}


def biased(problem: Problem, bias: float) -> Learner:
    he = scaled_he()

    def init(layer: nn.Linear) -> None:
        he(layer)
        nn.init.constant_(layer.bias, bias)

    return Learner(problem, mlp(problem, DEPTH, init=init))


def _fault(problem: Problem, strength: Strength, bias: float, lost: float, epochs: float = 1.0) -> Fault:
    longer = {"max_epochs": int(epochs * problem.epochs)}  # some wake up at last
    run = Setup(f"dying-relu-{problem.name}-{strength}", functools.partial(biased, problem, bias), longer)
    return Fault("dying-relu", problem.name, strength, run, TWINS[problem.name], EXPECTS, lost=lost)


FAULTS = [
    _fault(BLOBS, "strong", -4.0, lost=0.5),
    _fault(BLOBS, "middle", -1.8, lost=0.3),
    _fault(BLOBS, "weak", -1.1, lost=0.02),
    _fault(CIRCLES, "strong", -4.0, lost=0.4),
    _fault(CIRCLES, "middle", -1.4, lost=0.4),
    _fault(CIRCLES, "weak", -1.15, lost=0.05, epochs=1.6),
    _fault(MNIST, "strong", -4.0, lost=0.6),
    _fault(MNIST, "middle", -1.5, lost=0.3),
    _fault(MNIST, "weak", -1.35, lost=0.02, epochs=2.0),
]
