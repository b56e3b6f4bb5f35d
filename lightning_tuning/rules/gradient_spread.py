"""LT202: one layer's weights move a thousand times faster, for their size, than another's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import weight_layers
from lightning_tuning.rules._weight_facts import WeightFacts
from lightning_tuning.rules._zero_gates import reached_by_gradient

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT202", "comparable_weights", "gradient_spread", "is_adaptive", "relative_gradients"]

LT202 = register(
    Rule(
        code="LT202",
        name="gradient-spread",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "One learning rate has to serve all weights. Where the gradient is a thousandth of another layer's for its "
            "weight's size, that layer stands still, or the other one is thrown about; healthy nets spread by 50 at "
            "most."
        ),
        remedy=(
            "`Trainer(callbacks=[WeightInitCallback()])`; ReLU for sigmoid and tanh, a normalization, or residual "
            "connections."
        ),
        source="Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward networks, section 4.2",
    )
)

_PLAIN, _ADAPTIVE, _STRONG = 2e2, 1e3, 1e5


def is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``optimizer`` scales each gradient by its own history, so that the spread matters less.

    SGD and what is derived from it does not; of others nobody can be sure.
    """
    return not isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD | torch.optim.LBFGS)


def comparable_weights(graph: Graph, facts: Mapping[str, WeightFacts]) -> dict[str, float]:
    """The norm of each weight whose relative gradient can be compared with another's, by name.

    Weights of two dimensions and more that multiply something of the batch. Not embeddings (few of their rows have a
    gradient), nor weights that are zero, frozen, or behind a gate that starts closed: see :func:`reached_by_gradient`.
    """
    if graph.blind:
        return {}
    reached = reached_by_gradient(graph, facts)
    looked_up = {name for op in graph.find("embedding", "embedding_bag") for name in op.parameters}
    names = [name for op in graph.answer(weight_layers) if op.index in reached for name in op.parameters]
    return {
        name: facts[name].norm
        for name in names
        if name not in looked_up
        and name in facts
        and len(facts[name].shape) >= 2
        and facts[name].is_trainable
        and 0 < facts[name].norm < math.inf
    }


def relative_gradients(gradients: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Norm of the gradient over norm of the weight, by name; where there is no gradient, there is no weak one either.

    Args:
        gradients: L2 norm of each parameter's gradient.
        weights: L2 norm of each weight that is compared.

    Example:
        >>> relative_gradients({"0.weight": 0.5, "2.weight": 0.0, "2.bias": 1.0}, {"0.weight": 2.0, "2.weight": 1.0})
        {'0.weight': 0.25}
    """
    return {name: gradients[name] / norm for name, norm in weights.items() if gradients.get(name, 0.0) > 0 and norm > 0}


def gradient_spread(looks: Sequence[Mapping[str, float]], *, adaptive: bool, optimizer: str) -> Finding | None:
    """LT202 if the largest relative gradient is far above the smallest, at every look.

    At every one, since healthy nets spread now and then: of 60 measured (Adam but for a few) a U-Net by 542, 1536 and
    1921, a mixture of experts by 283, 1099 and 413, an LSTM language model by 26, 405 and 674.

    Args:
        looks: relative gradients at some of the first steps, as :func:`relative_gradients` gives them.
        adaptive: see :func:`is_adaptive`: the threshold is 1e3 then, 2e2 otherwise.
        optimizer: its name, for the finding.

    Example:
        >>> finding = gradient_spread([{"0.weight": 2.5e-5, "9.weight": 2.0}] * 3, adaptive=False, optimizer="SGD")
        >>> finding.where, finding.evidence["spread"]
        ('0.weight', 80000.0)
    """
    if not looks or any(len(look) < 2 or not all(map(math.isfinite, look.values())) for look in looks):
        return None
    calmest = min(looks, key=_spread)
    threshold, spread = (_ADAPTIVE if adaptive else _PLAIN), _spread(calmest)
    if not spread > threshold:
        return None
    low, high = min(calmest, key=calmest.__getitem__), max(calmest, key=calmest.__getitem__)
    strong = f", and far above {_STRONG:g}" if spread > _STRONG else ""
    return LT202.finding(
        f"its gradient is {calmest[low]:.2g} of its weight, that of {high} {calmest[high]:.2g}: "
        f"{spread:.2g} times > {threshold:g} for {optimizer}{strong}",
        where=low,
        evidence={
            "spread": spread,
            "threshold": threshold,
            "smallest": calmest[low],
            "largest": calmest[high],
            "largest_at": high,
            "looks": len(looks),
        },
    )


def _spread(look: Mapping[str, float]) -> float:
    least = min(look.values())
    return max(look.values()) / least if least > 0 else math.inf
