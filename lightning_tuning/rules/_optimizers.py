"""What rules ask of optimizers: which family by effect, which settings, whose parameters by which names."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = [
    "Family",
    "ParameterGroup",
    "by_optimizer",
    "elements",
    "family_of",
    "listing",
    "named_groups",
    "parameter_groups",
    "parameter_names",
    "title_of",
]

Family = Literal["adam", "sgd", "adadelta", "other"]

_COMMON = frozenset({"lr", "weight_decay", "maximize", "foreach", "fused", "differentiable", "capturable"})
_FAMILIES: Mapping[Family, tuple[frozenset[str], frozenset[str]]] = {  # what it must have, what it may have besides
    "adam": (
        frozenset({"lr", "betas", "eps"}),
        _COMMON | {"amsgrad", "decoupled_weight_decay", "momentum_decay", "bias_correction", "correct_bias"},
    ),
    "sgd": (frozenset({"lr", "momentum"}), _COMMON | {"dampening", "nesterov"}),
    "adadelta": (frozenset({"lr", "rho", "eps"}), _COMMON),
}
_DECOUPLED = (torch.optim.AdamW,)
_COUPLED = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """One parameter group of one optimizer, as it stands.

    Attributes:
        where: ``"AdamW group 0"``, or ``"AdamW 1 group 0"`` of the second of several optimizers.
        optimizer: index of its optimizer.
        family: by effect, told from the settings that the optimizer knows: one that has any besides those of the
            family (a trust ratio, a distance estimate, an averaging weight) is ``"other"``, for the learning rate means
            something else there.
        settings: everything in the group but its parameters.
        parameters: by dotted name.
        decoupled: whether weight decay stays out of the gradient; ``None`` where that is not known.
    """

    where: str
    optimizer: int
    family: Family
    settings: Mapping[str, Any]
    parameters: tuple[tuple[str, Tensor], ...]
    decoupled: bool | None = None

    def number(self, name: str, default: float = 0.0) -> float:
        """A setting as a float (reads a tensor: a device sync); ``default`` where it is none or no number."""
        value = self.settings.get(name)
        if isinstance(value, Tensor):
            return float(value) if value.numel() == 1 else default
        return float(value) if isinstance(value, numbers.Real) else default

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return self.number("lr")

    @property
    def peak_lr(self) -> float:
        """The highest of the learning rate now, before the schedule, and at the top of a one-cycle schedule."""
        return max(self.lr, self.number("initial_lr"), self.number("max_lr"))

    @property
    def warms_up(self) -> bool:
        """A schedule holds the learning rate below its target; to be asked before the first step."""
        return self.lr < 0.99 * self.peak_lr


def parameter_groups(optimizers: Sequence[Any], names: Mapping[int, str]) -> list[ParameterGroup]:
    """Every group of every optimizer, in order.

    Args:
        optimizers: or wrappers of them; all that is asked of one is ``param_groups``.
        names: dotted name by the identity of a parameter, see :func:`parameter_names`.
    """
    groups = []
    for index, wrapper in enumerate(optimizers):
        optimizer = getattr(wrapper, "optimizer", wrapper)
        family = family_of(optimizer)
        for where, group in named_groups(optimizer, index, several=len(optimizers) > 1):
            held = list(group["params"])
            groups.append(
                ParameterGroup(
                    where=where,
                    optimizer=index,
                    family=family,
                    settings={name: value for name, value in group.items() if name != "params"},
                    parameters=tuple((names.get(id(p), f"parameter {i}"), p) for i, p in enumerate(held)),
                    decoupled=_decoupled(optimizer, group),
                )
            )
    return groups


def by_optimizer(groups: Sequence[ParameterGroup]) -> Iterator[list[ParameterGroup]]:
    """The groups of each optimizer, so that one finding speaks for all that say the same."""
    for index in dict.fromkeys(group.optimizer for group in groups):
        yield [group for group in groups if group.optimizer == index]


def parameter_names(module: nn.Module) -> dict[int, str]:
    """Dotted name by the identity of each parameter; of tied weights the first name."""
    return {id(parameter): name for name, parameter in module.named_parameters()}


def elements(parameter: Tensor) -> int:
    """How many numbers a parameter holds; 0 before a lazy one is built."""
    return 0 if is_lazy(parameter) else parameter.numel()


def listing(names: Sequence[str], most: int = 3) -> str:
    """``"`a`, `b`, `c` and 4 more"``."""
    text = ", ".join(f"`{name}`" for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def title_of(optimizer: Any, index: int, *, several: bool) -> str:
    """How ``optimizer`` is called in findings: its class, numbered where it is one of ``several``."""
    return type(optimizer).__name__ + (f" {index}" if several else "")


def named_groups(optimizer: Any, index: int, *, several: bool) -> list[tuple[str, dict[str, Any]]]:
    """The parameter groups of ``optimizer``, called as in findings; see :class:`ParameterGroup`."""
    title = title_of(optimizer, index, several=several)
    return [(f"{title} group {number}", group) for number, group in enumerate(optimizer.param_groups)]


def family_of(optimizer: Any) -> Family:
    """What the learning rate means to ``optimizer``; see :class:`ParameterGroup`."""
    known = set(getattr(optimizer, "defaults", None) or ())
    for family, (needed, allowed) in _FAMILIES.items():
        if needed <= known <= needed | allowed:
            return family
    return "other"


def _decoupled(optimizer: Any, group: Mapping[str, Any]) -> bool | None:
    stated = group.get("decoupled_weight_decay")
    if stated is not None:
        return bool(stated)
    if isinstance(optimizer, _DECOUPLED):
        return True
    return False if isinstance(optimizer, _COUPLED) else None
