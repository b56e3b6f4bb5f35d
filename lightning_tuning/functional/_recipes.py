"""Which scheme and gain suit the activation behind a weight."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.functional.initialization import SchemeName, activation_gain

__all__ = ["Recipe", "recipe_for"]

_SATURATING = {"tanh", "softsign", "tanhshrink"}
_GATES = {"sigmoid", "hardsigmoid", "logsigmoid", "glu"}
_SMOOTH: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "celu": (F.celu, ("alpha",)),
    "elu": (F.elu, ("alpha",)),
    "gelu": (F.gelu, ("approximate",)),
    "hardswish": (F.hardswish, ()),
    "mish": (F.mish, ()),
    "silu": (F.silu, ()),
    "softplus": (F.softplus, ("beta", "threshold")),
}


@dataclass(frozen=True)
class Recipe:
    """A scheme and its gain, and the activation that they are for (``""``: none)."""

    scheme: SchemeName
    gain: float
    activation: str = ""


def recipe_for(activation: str, arguments: Mapping[str, Any] | None = None) -> Recipe | None:
    """The usual initialisation of a weight whose output goes through ``activation``; ``None`` if it is no known one.

    ReLU and its relatives: He with the gain of their slope. GELU, SiLU, ELU and other smooth rectifiers: He with the
    gain of :func:`activation_gain`. Tanh: Xavier with gain 5/3. Sigmoid and gates: Xavier. SELU: LeCun, on which
    self-normalisation rests (Klambauer et al. 2017).

    Args:
        activation: name of the function in ``torch.nn.functional``.
        arguments: its arguments by name (``negative_slope``, ``alpha``, ...); torch's defaults where one is missing.

    Example:
        >>> recipe_for("leaky_relu", {"negative_slope": 0.2}).gain == math.sqrt(2 / 1.04)
        True
        >>> recipe_for("tanh")
        Recipe(scheme='xavier', gain=1.6666666666666667, activation='tanh')
    """
    given = arguments or {}
    if activation in ("relu", "relu6") or _cuts_at_zero(activation, given):
        return Recipe("he", nn.init.calculate_gain("relu"), "relu")
    if activation in ("leaky_relu", "prelu"):
        slope = float(given.get("negative_slope", 0.25 if activation == "prelu" else 0.01))
        return Recipe("he", nn.init.calculate_gain("leaky_relu", slope), activation)
    if activation == "rrelu":  # the mean square of a slope drawn uniformly
        low, high = float(given.get("lower", 1 / 8)), float(given.get("upper", 1 / 3))
        return Recipe("he", math.sqrt(2 / (1 + (low * low + low * high + high * high) / 3)), activation)
    if activation == "selu":
        return Recipe("lecun", 1.0, activation)
    if activation in _SATURATING or activation == "hardtanh":
        return Recipe("xavier", nn.init.calculate_gain("tanh"), activation)
    if activation in _GATES:
        return Recipe("xavier", 1.0, activation)
    if activation in _SMOOTH:
        _, names = _SMOOTH[activation]
        known = {name: given[name] for name in names if given.get(name) is not None}
        return Recipe("he", _gain(activation, tuple(known.items())), activation)
    return None


@functools.lru_cache(maxsize=64)
def _gain(activation: str, arguments: tuple[tuple[str, Any], ...]) -> float:
    """Of a smooth one; a net asks for the same again at every layer."""
    return activation_gain(functools.partial(_SMOOTH[activation][0], **dict(arguments)))


def _cuts_at_zero(activation: str, arguments: Mapping[str, Any]) -> bool:
    """ReLU by another name: ``clamp(min=0)``, ``hardtanh(0, 6)``, ``threshold(0, 0)``."""
    lowest = {"clamp": "min", "clamp_min": "min", "hardtanh": "min_val", "threshold": "threshold"}.get(activation)
    return lowest is not None and arguments.get(lowest) == 0 and arguments.get("value", 0) == 0
