"""What is known of torch's usual optimizers, side by side: one table, checked against torch by its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["OPTIMIZERS", "OptimizerFacts"]


class OptimizerFacts(NamedTuple):
    """One optimizer of ``torch.optim``.

    Attributes:
        torch_class: its name there.
        arguments: what makes it this one, beside the learning rate.
        states: numbers that it keeps for each weight, in the weight's own dtype; float32 weights take 4 bytes each.
        default_lr: torch's.
        usual_lr: least and largest that people end up with.
        default_decay: torch's ``weight_decay``.
        first_step: length of the first update for a gradient of 1, in units of lr.
        scales: whether a gradient twice as large makes that update twice as large.
        decay: what ``weight_decay`` does.
        take: when to take it.
        trap: what goes wrong with it.
        source: whose it is.
    """

    torch_class: str
    arguments: Mapping[str, float]
    states: int
    default_lr: float
    usual_lr: tuple[float, float]
    default_decay: float
    first_step: float
    scales: bool
    decay: str
    take: str
    trap: str
    source: str


_L2 = "adds weight_decay * weight to the gradient: L2"
_L2_DIVIDED = f"{_L2}, then divided by the gradient's size, so that weights of large gradients hardly decay"

OPTIMIZERS: dict[str, OptimizerFacts] = {
    "SGD": OptimizerFacts(
        torch_class="SGD",
        arguments={},
        states=0,
        default_lr=1e-3,
        usual_lr=(1e-2, 1.0),
        default_decay=0.0,
        first_step=1.0,
        scales=True,
        decay=_L2,
        take="memory allows no state at all, or theory is to be followed to the letter.",
        trap="slow along directions of small curvature (LT407); momentum costs one number per weight.",
        source="Robbins and Monro 1951, A Stochastic Approximation Method",
    ),
    "SGD+momentum": OptimizerFacts(
        torch_class="SGD",
        arguments={"momentum": 0.9},
        states=1,
        default_lr=1e-3,
        usual_lr=(1e-2, 0.2),
        default_decay=0.0,
        first_step=1.0,
        scales=True,
        decay=_L2,
        take="convolutional nets on images, with a schedule: the best final accuracy where the rate is tuned.",
        trap=(
            "torch's momentum is 0 unless given, its lr of 1e-3 is a hundredth of the usual; steps add up to "
            "lr / (1 - momentum), ten times lr at .9; needs a rate of its own for each net."
        ),
        source="Polyak 1964; Sutskever et al. 2013, On the importance of initialization and momentum",
    ),
    "Adagrad": OptimizerFacts(
        torch_class="Adagrad",
        arguments={},
        states=1,
        default_lr=1e-2,
        usual_lr=(1e-2, 0.1),
        default_decay=0.0,
        first_step=1.0,
        scales=False,
        decay=_L2_DIVIDED,
        take="sparse features (bags of words, embeddings of rare items): what is rarely seen keeps its rate.",
        trap="sums squared gradients up for ever: the rate falls as 1 / sqrt(steps), and long runs of dense nets stop.",
        source="Duchi et al. 2011, Adaptive Subgradient Methods for Online Learning",
    ),
    "Adadelta": OptimizerFacts(
        torch_class="Adadelta",
        arguments={},
        states=2,
        default_lr=1.0,
        usual_lr=(0.5, 1.0),
        default_decay=0.0,
        first_step=(1e-6 / (0.1 + 1e-6)) ** 0.5,
        scales=False,
        decay=_L2_DIVIDED,
        take="no rate is to be chosen, in older code; Adam has replaced it.",
        trap=(
            "lr=1e-3, as of Keras or of a config for Adam, moves nothing: 1.0 is the method (LT408); starts at .003 of "
            "lr, by eps alone, and takes hundreds of steps to grow."
        ),
        source="Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method",
    ),
    "RMSprop": OptimizerFacts(
        torch_class="RMSprop",
        arguments={},
        states=1,
        default_lr=1e-2,
        usual_lr=(1e-4, 1e-3),
        default_decay=0.0,
        first_step=10.0,
        scales=False,
        decay=_L2_DIVIDED,
        take="recurrent nets and reinforcement learning by recipes that were tuned with it; one number less than Adam.",
        trap=(
            "no bias correction: the first step is ten times lr at alpha=.99, .1 at torch's lr of 1e-2; eps stands "
            "outside the root, in TensorFlow inside, so that rates do not carry over."
        ),
        source="Tieleman and Hinton 2012, lecture 6.5, rmsprop",
    ),
    "Adam": OptimizerFacts(
        torch_class="Adam",
        arguments={},
        states=2,
        default_lr=1e-3,
        usual_lr=(1e-4, 1e-3),
        default_decay=0.0,
        first_step=1.0,
        scales=False,
        decay=_L2_DIVIDED,
        take="first try on anything, without weight decay: works at 3e-4 to 1e-3 nearly everywhere.",
        trap=(
            "with weight_decay take AdamW (LT405); eps=1e-8 is 0 in float16 (LT409); a rare large gradient is "
            "remembered for 1000 steps at beta2=.999: transformers take .95 and a warm-up."
        ),
        source="Kingma and Ba 2015, Adam: A Method for Stochastic Optimization",
    ),
    "AdamW": OptimizerFacts(
        torch_class="AdamW",
        arguments={},
        states=2,
        default_lr=1e-3,
        usual_lr=(1e-5, 1e-3),
        default_decay=1e-2,
        first_step=1.0,
        scales=False,
        decay="takes lr * weight_decay of each weight off, apart from the gradient",
        take="transformers, fine-tuning, and whatever Adam would do with weight decay: today's default.",
        trap=(
            "weight_decay is .01 unless given and hits norms and biases too: `functional.param_groups` (LT406); it is "
            "multiplied by lr, so that a schedule that lowers the rate lowers the decay."
        ),
        source="Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization",
    ),
}
"""By the name that people use, in the order of their age."""
