"""Momentum that rises while a net trains: its value at each step, and the way into any optimizer."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["check_momentum_arguments", "has_momentum", "momentum_at", "set_momentum_"]

SHAPES = ("linear", "cosine", "sutskever")

_STAIR = 250
"""Steps for which the momentum of Sutskever et al. stays where it is."""


def momentum_at(step: int, *, start: float = 0.5, end: float = 0.9, over: int = 1000, shape: str = "linear") -> float:
    """The momentum for the update after ``step`` others.

    Args:
        step: updates before this one, 0 for the first.
        start: at step 0, in [0, 1). Default .5, where Sutskever et al. begin.
        end: from step ``over`` on, in [0, 1); may be below ``start``. Default .9, what most recipes train with.
        over: steps from ``start`` to ``end``. Default 1000, where the stairs of ``"sutskever"`` reach .9.
        shape: ``"linear"`` (default), ``"cosine"`` (half a wave: slow, fast, slow), or ``"sutskever"``:
            ``min(1 - 2 ** (-1 - log2(step // 250 + 1)), end)``, to which ``start`` and ``over`` mean nothing.

    Example:
        >>> [round(momentum_at(step, over=4), 3) for step in range(6)]
        [0.5, 0.6, 0.7, 0.8, 0.9, 0.9]
        >>> [round(momentum_at(step, end=0.99, shape="sutskever"), 3) for step in (0, 249, 250, 500, 10**6)]
        [0.5, 0.5, 0.75, 0.833, 0.99]

    Source: Sutskever, Martens, Dahl & Hinton 2013, On the importance of initialization and momentum in deep learning,
        section 3, equation 5.
    """
    if shape == "sutskever":
        return min(1 - 2 ** (-1 - math.log2(step // _STAIR + 1)), end)
    done = min(1.0, step / over)
    if done == 1:
        return end  # to the last bit
    if shape == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (end - start) * done


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether every group has a momentum to set: ``momentum``, or the first of two or more ``betas``."""
    return all(
        "momentum" in group or (isinstance(group.get("betas"), tuple | list) and len(group["betas"]) > 1)
        for group in optimizer.param_groups
    )


def set_momentum_(optimizer: Optimizer, value: float) -> None:
    """Put ``value`` into every group: SGD's and RMSprop's ``momentum``, the first of Adam's ``betas``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        >>> set_momentum_(optimizer, 0.5)
        >>> optimizer.param_groups[0]["betas"]
        (0.5, 0.999)
    """
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = value
        elif isinstance(group["betas"][0], Tensor):  # whoever captured or compiled the step reads the very tensor
            group["betas"][0].fill_(value)
        else:
            group["betas"] = type(group["betas"])((value, *group["betas"][1:]))


def check_momentum_arguments(*, start: object, end: object, over: object, shape: object) -> None:
    """Refuse what cannot be scheduled, before there is an optimizer; ``over`` may also be a fraction of the run.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    if shape not in SHAPES:
        raise ValueError(f"`shape` must be 'linear', 'cosine' or 'sutskever', got {shape!r}.")
    for name, value in (("start", start), ("end", end)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"`{name}` must be at least 0 and less than 1, got {value!r}.")
    if shape == "sutskever":
        if over is not None:
            raise ValueError(f"`over` must be None with shape='sutskever', whose stairs have 250 steps, got {over!r}.")
        if start != 0.5:
            raise ValueError(f"`start` must be 0.5 with shape='sutskever', which begins there, got {start!r}.")
        if not isinstance(end, int | float) or end < 0.5:
            raise ValueError(f"`end` must be at least 0.5 with shape='sutskever', which begins there, got {end!r}.")
        return
    is_count = isinstance(over, int) and not isinstance(over, bool) and over >= 1
    if over is not None and not is_count and not (isinstance(over, float) and 0 < over <= 1):
        raise ValueError(
            f"`over` must be None, an integer of at least 1, or a fraction above 0 and at most 1, got {over!r}."
        )
