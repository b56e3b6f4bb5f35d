"""Dropout put into a net, its rate over a run, and a noise that batch norms bear better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_tuning.functional._numbers import is_number
from lightning_tuning.functional.inserted_layers import Side, insert_layer, inserted_layer
from lightning_tuning.functional.module_globs import select_modules

__all__ = ["Shape", "UOut", "apply_dropout", "check_rate", "dropout_rate", "dropout_setting"]

Shape: TypeAlias = Literal["linear", "cosine", "exponential", "step"]


class UOut(nn.Module):
    r"""Multiplies by uniform noise: :math:`x \cdot (1 + U(-\beta, \beta))` in training, nothing in evaluation.

    The variance of its output is :math:`1 + \beta^2 / 3` times that of a centred input (1.003 at ``beta=.1``), where
    dropout makes it :math:`1 / (1 - p)` times as large (2 at ``p=.5``): a batch norm behind it keeps statistics that
    hold in evaluation too. It regularizes less as well.

    Args:
        beta: half the width of the noise, 0 to 1. Default .1, as in the paper.

    Raises:
        ValueError: for a ``beta`` outside of that.

    Example:
        >>> UOut(0.1).eval()(torch.ones(2))
        tensor([1., 1.])

    Source: Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization, section 5.2.
    """

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        if not is_number(beta) or not 0 <= beta <= 1:
            raise ValueError(f"`beta` must be between 0 and 1, got {beta!r}.")
        self.beta = beta

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Noise on ``input``, of any shape."""
        if not self.training or not self.beta:
            return input
        return input * torch.empty_like(input).uniform_(1 - self.beta, 1 + self.beta)

    def extra_repr(self) -> str:
        """The width."""
        return f"beta={self.beta:g}"


def apply_dropout(
    module: nn.Module, where: str | Iterable[str] = "before-head", p: float = 0.5, *, side: Side = "before"
) -> list[str]:
    """Put a dropout in front of (or behind) layers of ``module``, and leave all other names as they are.

    The dropout is a child of the layer, applied by a forward hook (see ``insert_layer``): checkpoints of the net with
    and without it are the same. Where one was put before, its rate is set.

    Args:
        module: changed in place.
        where: ``"before-head"`` (default): the last ``nn.Linear`` of the net, in the order of registration; a net that
            registers its head earlier needs its name. Else globs on dotted names of layers.
        p: share of elements that are dropped, 0 <= p < 1. Default .5, usual for fully connected layers (Srivastava et
            al. 2014); .1 in transformers.
        side: of the layers: ``"before"`` (default) or ``"behind"``. ``"before-head"`` is always before.

    Returns:
        the names of the layers.

    Raises:
        ValueError: for an argument outside of what is said above, a glob that means no layer, or a net without a linear
            layer.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> apply_dropout(net, p=0.2)
        ['2']
        >>> net[2].inserted_before
        Dropout(p=0.2, inplace=False)

    Source: Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting, appendix A.
    """
    check_rate("p", p)
    if side not in get_args(Side):
        raise ValueError(f"`side` must be one of {get_args(Side)}, got {side!r}.")
    if where == "before-head":
        side = "before"
        linears = [name for name, part in module.named_modules() if type(part) is nn.Linear]
        if not linears:
            raise ValueError("`where` must be globs on names for a net without nn.Linear, got 'before-head'.")
        found = {linears[-1]: module.get_submodule(linears[-1])}
    else:
        globs = (where,) if isinstance(where, str) else tuple(where)
        inside = select_modules(module, lambda part: part is not module, globs, what="layer", argument="where")
        # "block" means the block itself, not each layer in it; a layer of two names gets one dropout.
        outermost = [name for name in inside if name.rpartition(".")[0] not in inside or not name]
        found = {name: part for part, name in {inside[name]: name for name in reversed(outermost)}.items()}
    for target in found.values():
        known = inserted_layer(target, side)
        if isinstance(known, nn.Dropout):
            known.p = p
        else:
            insert_layer(target, nn.Dropout(p).train(target.training), side)
    return sorted(found)


def dropout_rate(progress: float, start: float, end: float, shape: Shape = "linear") -> float:
    r"""The rate of dropout after a share ``progress`` of its way from ``start`` to ``end``.

    Args:
        progress: 0 at the start, 1 at the end; held to that range.
        start: first rate.
        end: last rate.
        shape: ``"linear"`` (default); ``"cosine"``: slow at both ends; ``"exponential"``:
            :math:`1 - e^{-10 \cdot progress}` of the way, fast at first, as curriculum dropout has it; ``"step"``:
            ``start`` until the end, as early dropout has it.

    Example:
        >>> [round(dropout_rate(t, 0.0, 0.5, "exponential"), 3) for t in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.316, 0.497, 0.5]
        >>> dropout_rate(0.99, 0.1, 0.0, "step"), dropout_rate(1.0, 0.1, 0.0, "step")
        (0.1, 0.0)

    Source: Morerio et al. 2017, Curriculum Dropout, equation 3; Liu et al. 2023, Dropout Reduces Underfitting,
        section 5.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress == 1:
        return end
    gone = {
        "linear": progress,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
        "exponential": 1 - math.exp(-10 * progress),
        "step": 0.0,
    }[shape]
    return start + (end - start) * gone


def dropout_setting(module: nn.Module) -> str | None:
    """The attribute in which ``module`` itself keeps a rate of dropout; ``None`` if it drops nothing.

    Example:
        >>> dropout_setting(nn.Dropout2d()), dropout_setting(nn.LSTM(2, 2, num_layers=2)), dropout_setting(nn.ReLU())
        ('p', 'dropout', None)
    """
    if isinstance(module, _DropoutNd):
        return "p"
    if isinstance(module, nn.MultiheadAttention) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
        return "dropout"
    return None


def check_rate(argument: str, rate: Any) -> None:
    """Refuse what is no rate of dropout.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"`{argument}` must be at least 0 and less than 1, got {rate!r}.")
