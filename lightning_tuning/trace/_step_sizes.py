"""How large a curvature the steps of an optimizer bear, as its groups, its state and its learning rates stand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

__all__ = ["GATHERED", "NoBoundError", "StepSizes", "step_sizes"]

GATHERED = 100
"""Steps after which what an adaptive optimizer divides by says something. Measured on 40 healthy nets, the curvature
divided by it was up to 50,000 times the bound in the first steps, and a hundredth to once the bound after 100."""

Group = Mapping[str, Any]


class NoBoundError(Exception):
    """No bound can be told; the message says why.

    Args:
        sentence: completes "no bound: ".
        soon: there will be one later in the run.
    """

    def __init__(self, sentence: str, *, soon: bool = False) -> None:
        super().__init__(sentence)
        self.soon = soon


@dataclass
class StepSizes:
    """What the steps of an optimizer bear.

    Attributes:
        optimizer: name of its class.
        where: its group with the highest learning rate, as findings name it (``"SGD group 0"``).
        lr: of that group.
        bound: the curvature that the steps of that group bear, in the optimizer's own metric.
        formula: that bound, as people write it (``"2 (1 + 0.9) / lr"``).
        maximize: the steps go up.
        parameters: those that it moves.
        preconditioner: for each a number or tensor, such that an eigenvalue of 1 of the Hessian divided by it is the
            most that the steps bear.
        decay: for each the coefficient of its L2 penalty.
    """

    optimizer: str
    where: str
    lr: float
    bound: float
    formula: str
    maximize: bool
    parameters: list[Tensor] = field(default_factory=list)
    preconditioner: list[Tensor | float] = field(default_factory=list)
    decay: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Way:
    """How one kind of optimizer steps.

    Attributes:
        kinds: classes whose ``step`` does so.
        limit: of a group: the curvature times the learning rate that its steps bear, and that as people write it.
        divisor: what a parameter's gradient is divided by, from group and state; ``None`` where that is not known yet.
        is_linear: complex parameters are nothing special.
    """

    kinds: tuple[type[Optimizer], ...]
    limit: Callable[[Group], tuple[float, str]]
    divisor: Callable[[Group, Mapping[str, Any]], Tensor | float | None]
    is_linear: bool = False


def step_sizes(optimizer: Optimizer) -> StepSizes:
    """What the next step of ``optimizer`` bears. Reads numbers that it keeps on the device: a device sync.

    A step of learning rate lr on a quadratic of curvature c multiplies the distance to its bottom by a number that
    passes -1 when lr times c reaches a limit: 2 for gradient descent, 2 (1 + b) with momentum b. That holds for each
    direction alone, and for groups with different settings together: the limit is where the largest eigenvalue of the
    Hessian, each row and column divided by the root of ``limit / lr``, reaches 1.

    Raises:
        NoBoundError: for an optimizer whose bound is not known, or not yet.

    Source: Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, appendix B
    (momentum); Cohen et al. 2022, Adaptive Gradient Methods at the Edge of Stability, section 2 (Adam, frozen).
    """
    name = type(optimizer).__name__
    way = _way_of(optimizer)
    groups = [group for group in optimizer.param_groups if group["params"]]
    if way is None:
        raise NoBoundError(f"no bound on the curvature is known for the steps of {name}")
    if not any(float(group["lr"]) > 0 for group in groups):
        raise NoBoundError(f"the learning rate of {name} is 0 now", soon=True)
    directions = {bool(group.get("maximize", False)) for group in groups}
    if len(directions) > 1:
        raise NoBoundError(f"{name} goes up in one group and down in another")
    highest = max(range(len(groups)), key=lambda i: float(groups[i]["lr"]))
    lr = float(groups[highest]["lr"])
    limit, formula = way.limit(groups[highest])
    number = next(i for i, group in enumerate(optimizer.param_groups) if group is groups[highest])
    sizes = StepSizes(name, f"{name} group {number}", lr, limit / lr, f"{formula} / lr", directions.pop())
    for parameter, preconditioner, decay in _of_parameters(optimizer, groups, way):
        sizes.parameters.append(parameter)
        sizes.preconditioner.append(preconditioner)
        sizes.decay.append(decay)
    if not sizes.parameters:
        raise NoBoundError(f"{name} divides by what its first {GATHERED} steps gather", soon=True)
    return sizes


def _of_parameters(
    optimizer: Optimizer, groups: list[dict[str, Any]], way: _Way
) -> Iterator[tuple[Tensor, Tensor | float, float]]:
    for group in groups:
        limit, lr = way.limit(group)[0], float(group["lr"])
        decay = 0.0 if _is_decoupled(optimizer, group) else float(group.get("weight_decay", 0.0))
        for parameter in group["params"]:
            if parameter.is_complex() and not way.is_linear:
                raise NoBoundError(f"{type(optimizer).__name__} treats the two parts of complex parameters apart")
            divisor = way.divisor(group, optimizer.state.get(parameter, {}))
            if divisor is None:
                continue  # it had too few gradients
            yield parameter, (math.inf if lr == 0 else divisor * (limit / lr)), decay


def _way_of(optimizer: Optimizer) -> _Way | None:
    """Told by the method that steps: a subclass with a ``step`` of its own is an optimizer of its own."""
    own = inspect.unwrap(type(optimizer).step)  # torch wraps it for its profiler
    for way in _WAYS:
        if any(isinstance(optimizer, kind) and own is inspect.unwrap(kind.step) for kind in way.kinds):
            return way
    return None


def _is_decoupled(optimizer: Optimizer, group: Group) -> bool:
    return bool(group.get("decoupled_weight_decay", isinstance(optimizer, AdamW)))


def _sgd_limit(group: Group) -> tuple[float, str]:
    momentum = float(group["momentum"])
    if not momentum:
        return 2.0, "2"
    if group["nesterov"]:
        return 2 * (1 + momentum) / (1 + 2 * momentum), f"2 (1 + {momentum:g}) / (1 + 2 x {momentum:g})"
    kept = 1 - float(group["dampening"])
    formula = f"2 (1 + {momentum:g})"
    return (2 * (1 + momentum) / kept if kept > 0 else math.inf), formula if kept == 1 else f"{formula} / {kept:g}"


def _adam_limit(group: Group) -> tuple[float, str]:
    beta = float(group["betas"][0])
    # Decoupled decay shrinks the weights by itself, which leaves a little less to the gradient.
    decayed = float(group["lr"]) * float(group["weight_decay"]) if group.get("decoupled_weight_decay") else 0.0
    return (2 - decayed) * (1 + beta) / (1 - beta), f"2 (1 + {beta:g}) / (1 - {beta:g})"


def _adam_divisor(group: Group, state: Mapping[str, Any]) -> Tensor | None:
    steps = float(state.get("step", 0))
    if steps < GATHERED:
        return None
    first, second = (float(beta) for beta in group["betas"])
    squares: Tensor = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    root: Tensor = (squares.float() / (1 - math.pow(second, steps))).sqrt()
    return (root + float(group["eps"])) * (1 - math.pow(first, steps))


def _rmsprop_limit(group: Group) -> tuple[float, str]:
    momentum = float(group["momentum"])
    return 2 * (1 + momentum), f"2 (1 + {momentum:g})" if momentum else "2"


def _rmsprop_divisor(group: Group, state: Mapping[str, Any]) -> Tensor | None:
    if float(state.get("step", 0)) < GATHERED:
        return None
    squares: Tensor = state["square_avg"].float()
    if group["centered"]:
        squares = (squares - state["grad_avg"].float().square()).clamp_min(0)
    return squares.sqrt() + float(group["eps"])


def _adagrad_divisor(group: Group, state: Mapping[str, Any]) -> Tensor | None:
    if float(state.get("step", 0)) < GATHERED:
        return None
    squares: Tensor = state["sum"].float()
    return (squares.sqrt() + float(group["eps"])) * (1 + float(state["step"]) * float(group["lr_decay"]))


_WAYS = (
    _Way((SGD,), _sgd_limit, lambda *_: 1.0, is_linear=True),
    _Way((Adam, AdamW), _adam_limit, _adam_divisor),
    _Way((RMSprop,), _rmsprop_limit, _rmsprop_divisor),
    _Way((Adagrad,), lambda _: (2.0, "2"), _adagrad_divisor),
)
