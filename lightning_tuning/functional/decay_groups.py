"""Parameter groups for an optimizer: weight decay for weights alone."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["check_weight_decay", "norm_parameters", "split_decay_groups", "trainable_parameters"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NAMED_NORM = re.compile(r"Norm(\dd)?$")  # LlamaRMSNorm, T5LayerNorm, FrozenBatchNorm2d: classes of other libraries


def split_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of ``module`` in two groups: weights, which decay, and norms and biases, which do not.

    Decay pulls towards zero. For a weight matrix that is a prior; a norm's scale it makes smaller than the 1 that it
    was meant to be, and a bias has nothing to overfit with. So parameters of fewer than two dimensions (biases, scales,
    gains, temperatures) go without, and so do normalization layers: torch's own, and those of other libraries, whose
    class names end in ``Norm``. Embeddings decay. For groups with rates of their own there is
    :func:`~lightning_tuning.functional.param_groups`.

    Frozen parameters are left out; tied ones appear once.

    Args:
        module: whose parameters to split.
        weight_decay: of the first group, in the optimizer's own unit (AdamW takes off ``lr * weight_decay`` of a weight
            at each step). No default: it belongs to the optimizer.

    Returns:
        groups for the first argument of an optimizer; one that would be empty is left out.

    Raises:
        ValueError: for a negative or non-finite ``weight_decay``, or a lazy parameter, whose shape is not known before
            a first batch went through.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2, bias=False))
        >>> for group in split_decay_groups(net, weight_decay=0.05):
        ...     print(group["weight_decay"], [tuple(p.shape) for p in group["params"]])
        0.05 [(8, 4), (2, 8)]
        0.0 [(8,), (8,), (8,)]

    Source:
        He et al. 2019, Bag of Tricks for Image Classification, section 3.1, "no bias decay".
    """
    check_weight_decay(weight_decay)
    of_norms = norm_parameters(module)
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in trainable_parameters(module).values():
        (kept if parameter.dim() < 2 or id(parameter) in of_norms else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_weight_decay(weight_decay: float) -> None:
    """Refuse one that no optimizer can use.

    Raises:
        ValueError: if it is negative or not finite.
    """
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"`weight_decay` must be a finite number >= 0, got {weight_decay!r}.")


def norm_parameters(module: nn.Module) -> set[int]:
    """``id`` of every parameter of a normalization layer: torch's own, and classes whose names end in ``Norm``.

    Example:
        >>> len(norm_parameters(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
        2
    """
    norms = (m for m in module.modules() if isinstance(m, _NORMS) or _NAMED_NORM.search(type(m).__name__))
    return {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that ask for gradients, by name in the order of registration; tied ones once.

    Raises:
        ValueError: for a lazy parameter, which has no shape yet.
    """
    found: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"`module` must have no lazy parameters, got `{name}` without a shape; send a batch through it first."
            )
        if parameter.requires_grad:
            found[name] = parameter
    return found
