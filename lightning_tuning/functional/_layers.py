"""What torch's weight layers hold: which of their parameters are weights, with which fans, and how torch fills them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_tuning.functional.initialization import fan_in_and_fan_out

__all__ = ["NORMALIZATIONS", "WeightSlot", "bias_bound", "bias_names", "weight_slots"]

NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class WeightSlot:
    """One weight of a layer.

    Attributes:
        name: of the attribute.
        fans: fan-in and fan-out of one block.
        blocks: independent matrices stacked along the first dimension.
        recurrent: maps a state onto the next state.
        feeds: where the layer itself decides what becomes of the product: ``"gate"`` (sigmoid and tanh), ``"relu"``,
            ``"attention"`` or ``"state"``; else ``""``.
        default_bound: no weight that torch has filled is larger than this.
    """

    name: str
    fans: tuple[float, float]
    default_bound: float
    blocks: int = 1
    recurrent: bool = False
    feeds: str = ""


def weight_slots(module: nn.Module) -> list[WeightSlot]:
    """The weights of ``module`` itself; none if it is no weight layer, or where something else computes its weight.

    Known are linear, bilinear, (transposed) convolution, recurrent and attention layers, and what derives from them.

    Example:
        >>> [(slot.name, slot.fans, slot.blocks) for slot in weight_slots(nn.LSTM(3, 5))]
        [('weight_ih_l0', (3.0, 5.0), 4), ('weight_hh_l0', (5.0, 5.0), 4)]
    """
    slots: list[WeightSlot] = []
    if isinstance(module, nn.Linear):
        slots = _plain(module, "weight")
    elif isinstance(module, _ConvNd):
        slots = _convolution(module)
    elif isinstance(module, nn.Bilinear) and (weight := _own(module, "weight")) is not None:
        out, first, second = weight.shape
        fans = float(first * second), out * (first + second) / 2
        slots = [WeightSlot("weight", fans, 1 / math.sqrt(max(first, 1)))]
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        slots = _recurrent(module)
    elif isinstance(module, nn.MultiheadAttention):
        for name, blocks in (("in_proj_weight", 3), ("q_proj_weight", 1), ("k_proj_weight", 1), ("v_proj_weight", 1)):
            slots += _plain(module, name, blocks, feeds="attention")
    return slots


def bias_names(module: nn.Module) -> list[str]:
    """The biases that belong to the weights of ``module``."""
    if isinstance(module, nn.MultiheadAttention):
        return ["in_proj_bias"] if _own(module, "in_proj_bias") is not None else []
    return [name for name, p in module.named_parameters(recurse=False) if name.startswith("bias") and p.dim() == 1]


def bias_bound(module: nn.Module) -> float:
    """No bias that torch has filled is larger than this: the biases of attention are 0, the others uniform."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        fan_in = module.hidden_size
    elif isinstance(module, nn.Bilinear):
        fan_in = module.in1_features
    elif isinstance(module, nn.Linear | _ConvNd):
        fan_in = math.prod(module.weight.shape[1:])  # torch's fan-in, of a transposed convolution too
    else:
        return 0.0
    return 1 / math.sqrt(max(fan_in, 1))


def _own(module: nn.Module, name: str) -> Tensor | None:
    """The parameter itself; none under ``weight_norm``, ``parametrize`` and the like, which compute it from others."""
    return module._parameters.get(name)


def _plain(module: nn.Module, name: str, blocks: int = 1, feeds: str = "") -> list[WeightSlot]:
    weight = _own(module, name)
    if weight is None:
        return []
    fan_in, fan_out = fan_in_and_fan_out(weight[: len(weight) // blocks])
    # Linear: 1 / sqrt(fan_in). Attention and `nn.Transformer`: Xavier over all of it, mostly the larger of the two.
    xavier = math.sqrt(6 / max(fan_in + blocks * fan_out, 1))
    return [WeightSlot(name, (fan_in, fan_out), max(xavier, 1 / math.sqrt(max(fan_in, 1))), blocks, feeds=feeds)]


def _convolution(module: _ConvNd) -> list[WeightSlot]:
    weight = _own(module, "weight")
    if weight is None:
        return []
    transposed = isinstance(module, _ConvTransposeNd)
    fans = fan_in_and_fan_out(
        weight, transposed=transposed, groups=module.groups, stride=module.stride if transposed else ()
    )
    bound = 1 / math.sqrt(max(math.prod(weight.shape[1:]), 1))  # torch's fan-in, of a transposed convolution too
    return [WeightSlot("weight", fans, bound, blocks=module.groups)]


def _recurrent(module: nn.RNNBase | nn.RNNCellBase) -> list[WeightSlot]:
    slots = []
    hidden = module.hidden_size
    mode = getattr(module, "mode", getattr(module, "nonlinearity", ""))
    feeds = "relu" if mode.lower().endswith("relu") else "gate"
    for name, weight in module.named_parameters(recurse=False):
        if weight.dim() != 2 or not name.startswith("weight_") or _own(module, name) is None:
            continue
        projection = name.startswith("weight_hr")  # (proj, hidden): what LSTM(proj_size=...) puts out
        blocks = 1 if projection else weight.shape[0] // hidden
        fans = float(weight.shape[1]), weight.shape[0] / blocks
        recurrent = name.startswith("weight_hh")
        slots.append(WeightSlot(name, fans, 1 / math.sqrt(hidden), blocks, recurrent, "state" if projection else feeds))
    return slots
