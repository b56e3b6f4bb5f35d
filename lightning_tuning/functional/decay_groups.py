"""Parameter groups for an optimizer: weight decay for weights alone."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["split_decay_groups"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def split_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of ``module`` in two groups: weights, which decay, and norms and biases, which do not.

    Decay pulls towards zero. For a weight matrix that is a prior; a norm's scale it makes smaller than the 1 that it
    was meant to be, and a bias has nothing to overfit with. So parameters of fewer than two dimensions (biases, scales,
    gains, temperatures) go without, and so do all of torch's own normalization layers. Embeddings decay.

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
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"`weight_decay` must be a finite number >= 0, got {weight_decay!r}.")
    of_norms = {id(p) for norm in module.modules() if isinstance(norm, _NORMS) for p in norm.parameters(recurse=False)}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"`module` must have no lazy parameters, got `{name}` without a shape; send a batch through it first."
            )
        if parameter.requires_grad:
            (kept if parameter.dim() < 2 or id(parameter) in of_norms else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
