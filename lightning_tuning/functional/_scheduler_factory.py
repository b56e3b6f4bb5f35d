"""The schedulers that a name, a class or a function stands for, and what they need to be made."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR, PolynomialLR, ReduceLROnPlateau

__all__ = ["MakeScheduler", "build_scheduler", "check_fit", "is_one_cycle", "length_argument", "resolve_scheduler"]

MakeScheduler = Callable[..., LRScheduler]

_LENGTHS = ("T_max", "total_steps", "total_iters", "num_training_steps")
"""What schedulers, and functions that make them, call the number of ticks until they are through."""


def length_argument(scheduler: str | MakeScheduler | None, arguments: Mapping[str, Any] | None = None) -> str | None:
    """The name of the argument that says how long ``scheduler`` is, if that is to be filled in.

    Example:
        >>> length_argument("CosineAnnealingLR"), length_argument("CosineAnnealingLR", {"T_max": 5})
        ('T_max', None)
        >>> length_argument("StepLR")
    """
    if scheduler is None:
        return None
    make, given = resolve_scheduler(scheduler), arguments or {}
    if {"epochs", "steps_per_epoch"} <= given.keys():
        return None
    # These have a default of 5, of which nobody can have thought in optimizer steps.
    has_no_use_of_default = inspect.isclass(make) and issubclass(make, PolynomialLR | LinearLR)
    for name, parameter in _parameters(make).items():
        is_open = parameter.default in (parameter.empty, None) or has_no_use_of_default
        if name in _LENGTHS and is_open and given.get(name) is None:
            return name
    return None


def resolve_scheduler(scheduler: str | MakeScheduler) -> MakeScheduler:
    """The class or function that a name stands for.

    Raises:
        ValueError: if there is none.

    Example:
        >>> resolve_scheduler("StepLR").__name__
        'StepLR'
    """
    if isinstance(scheduler, str):
        found = _imported(scheduler) if "." in scheduler else getattr(lr_scheduler, scheduler, None)
    else:
        found = scheduler
    if not callable(found) or (not isinstance(scheduler, str) and isinstance(scheduler, LRScheduler)):
        near = difflib.get_close_matches(str(scheduler), lr_scheduler.__all__, n=1)
        raise ValueError(
            "`scheduler` must be a class of torch.optim.lr_scheduler or its name, a dotted path, or a function of the "
            f"optimizer, got {scheduler!r}.{f' Did you mean {near[0]!r}?' if near else ''}"
        )
    if inspect.isclass(found) and issubclass(found, ReduceLROnPlateau):
        raise ValueError("`scheduler` must not wait for a metric, got ReduceLROnPlateau: use PlateauLR, its sibling.")
    make: MakeScheduler = found
    return make


def check_fit(make: MakeScheduler, given: dict[str, Any]) -> None:
    """Whether ``make(optimizer, **given)`` has all that it needs, and nothing unknown."""
    filled = {**given}
    if (length := length_argument(make, given)) is not None:
        filled[length] = 1
    if is_one_cycle(make):
        filled.setdefault("max_lr", 1.0)
    try:
        inspect.signature(make).bind(None, **filled)
    except TypeError as error:
        name = getattr(make, "__name__", repr(make))
        raise ValueError(
            f"`arguments` must be those of {name} without the optimizer, got {given!r}: {error}."
        ) from None
    except ValueError:  # a builtin or the like, that shows no signature
        return


def build_scheduler(optimizer: Optimizer, make: MakeScheduler, given: dict[str, Any], ticks: int | None) -> LRScheduler:
    """A scheduler on ``optimizer`` with the arguments ``given``, its length being ``ticks`` if it is still open."""
    filled = {**given}
    if (length := length_argument(make, given)) is not None:
        if ticks is None:
            raise ValueError(
                f"`{length}` must be given in `arguments` where the length of the run is not known, got None."
            )
        filled[length] = ticks
    if is_one_cycle(make):
        filled.setdefault("max_lr", [float(group["lr"]) for group in optimizer.param_groups])
    if (lambdas := filled.get("lr_lambda")) is not None:
        several = isinstance(lambdas, list | tuple)
        found = [_imported(f) if isinstance(f, str) else f for f in (lambdas if several else [lambdas])]
        filled["lr_lambda"] = found if several else found[0]
    built: Any = make(optimizer, **filled)
    if not isinstance(built, LRScheduler) or isinstance(built, ReduceLROnPlateau) or built.optimizer is not optimizer:
        raise ValueError(
            f"`scheduler` must make a scheduler of the optimizer that it is given, other than ReduceLROnPlateau (for "
            f"which there is PlateauLR), got a {type(built).__name__}."
        )
    return built


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`scheduler` and `lr_lambda` must be importable, got {path!r}: {error}.") from None


def _parameters(make: MakeScheduler) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}


def is_one_cycle(make: MakeScheduler) -> bool:
    """Whether it makes a ``OneCycleLR``, which has a warm-up."""
    return inspect.isclass(make) and issubclass(make, OneCycleLR)
