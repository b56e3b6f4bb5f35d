"""Batch renormalization: a batch norm that trains by what it will be evaluated with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_tuning.functional._numbers import is_number

__all__ = ["BatchRenorm", "BatchRenorm1d", "BatchRenorm2d", "BatchRenorm3d", "check_renorm_arguments"]


class BatchRenorm(_BatchNorm):
    r"""Batch norm whose output in training is corrected towards that of evaluation; its kinds are 1d, 2d and 3d.

    .. math:: y = \gamma \left(\frac{x - \mu_B}{\sigma_B} r + d\right) + \beta, \quad
        r = \mathrm{clip}_{[1/r_{max},\, r_{max}]}\left(\frac{\sigma_B}{\sigma}\right), \quad
        d = \mathrm{clip}_{[-d_{max},\, d_{max}]}\left(\frac{\mu_B - \mu}{\sigma}\right)

    with the batch's :math:`\mu_B, \sigma_B` and the running :math:`\mu, \sigma`; no gradient flows through r and d.
    Where neither is clipped, the output is that of evaluation. With ``r_max=1`` and ``d_max=0`` it is batch norm, and
    so it begins: the bounds open linearly with the number of batches seen. Evaluation, running statistics (the
    variance, where the paper keeps the standard deviation) and ``state_dict`` are those of torch's batch norm.

    For batches too small for a statistic of their own (4 samples, say), or whose samples are not independent. No value
    is read from the device, unless ``momentum`` is ``None`` (as in torch's own).

    Args:
        num_features: channels.
        eps: added to variances. Default 1e-5.
        momentum: weight of the new batch in the running statistics. Default .01, as in the paper: with small batches
            they need a long memory, and here training leans on them too.
        affine: whether there are scale and shift. Default true.
        r_max: bound of r, at least 1. Default 3, as in the paper.
        d_max: bound of d, at least 0. Default 5, as in the paper.
        r_steps: batches seen at which ``r_max`` begins to open, and at which it is open. Default (5000, 40000).
        d_steps: the same for ``d_max``. Default (5000, 25000). Both as in the paper, whose runs have 130,000 steps and
            more: give a short run its own, (1 epoch, 3 epochs) in batches, say.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Raises:
        ValueError: for an argument outside of what is said above.

    Example:
        >>> norm = BatchRenorm1d(2, r_steps=(0, 10), d_steps=(0, 10))
        >>> norm(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).shape
        torch.Size([2, 2])

    Source: Ioffe 2017, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        r_steps: tuple[int, int] = (5000, 40000),
        d_steps: tuple[int, int] = (5000, 25000),
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_renorm_arguments(r_max=r_max, d_max=d_max, r_steps=r_steps, d_steps=d_steps)
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype)
        self.r_max, self.d_max, self.r_steps, self.d_steps = r_max, d_max, tuple(r_steps), tuple(d_steps)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalize ``input`` of shape ``(N, C, ...)``."""
        mean, var, seen = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.training or mean is None or var is None or seen is None:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]  # torch's is untyped
        with torch.no_grad():
            over = [dimension for dimension in range(input.dim()) if dimension != 1]
            own_var, own_mean = torch.var_mean(input.to(mean.dtype), over, correction=0)
            r_max = 1 + (self.r_max - 1) * _opened(seen, self.r_steps)
            d_max = self.d_max * _opened(seen, self.d_steps)
            sigma = (var + self.eps).sqrt()
            r = torch.clamp((own_var + self.eps).sqrt() / sigma, 1 / r_max, r_max)
            d = torch.clamp((own_mean - mean) / sigma, -d_max, d_max)
            seen.add_(1)
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        scale, shift = (r, d) if weight is None else (weight * r, weight * d)
        shift = shift if bias is None else shift + bias
        momentum: Any = 1 / seen if self.momentum is None else self.momentum
        return F.batch_norm(input, mean, var, scale, shift, True, float(momentum), self.eps)

    def extra_repr(self) -> str:
        """With the bounds."""
        return f"{_BatchNorm.extra_repr(self)}, r_max={self.r_max:g}, d_max={self.d_max:g}"  # type: ignore[no-untyped-call]


class BatchRenorm1d(BatchRenorm):
    """:class:`BatchRenorm` of input of shape ``(N, C)`` or ``(N, C, L)``."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        _check_dimensions(self, input, (2, 3))


class BatchRenorm2d(BatchRenorm):
    """:class:`BatchRenorm` of input of shape ``(N, C, H, W)``."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        _check_dimensions(self, input, (4,))


class BatchRenorm3d(BatchRenorm):
    """:class:`BatchRenorm` of input of shape ``(N, C, D, H, W)``."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        _check_dimensions(self, input, (5,))


def check_renorm_arguments(*, r_max: Any, d_max: Any, r_steps: Any, d_steps: Any) -> None:
    """Refuse what batch renormalization cannot use.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    for name, value, least in (("r_max", r_max, 1), ("d_max", d_max, 0)):
        if not is_number(value) or value < least:
            raise ValueError(f"`{name}` must be a finite number of at least {least}, got {value!r}.")
    for name, steps in (("r_steps", r_steps), ("d_steps", d_steps)):
        whole = isinstance(steps, tuple | list) and len(steps) == 2 and all(type(step) is int for step in steps)
        if not whole or not 0 <= steps[0] <= steps[1]:
            raise ValueError(f"`{name}` must be two whole numbers, 0 <= first <= last, got {steps!r}.")


def _opened(seen: Tensor, steps: tuple[int, ...]) -> Tensor:
    """How far a bound is open after ``seen`` batches, 0 to 1, on the device."""
    first, last = steps
    if first == last:
        return (seen >= first).float()
    return ((seen - first) / (last - first)).clamp(0, 1)


def _check_dimensions(norm: _BatchNorm, input: Tensor, allowed: tuple[int, ...]) -> None:  # noqa: A002
    if input.dim() not in allowed:
        wanted = " or ".join(f"{number}D" for number in allowed)
        raise ValueError(f"{type(norm).__name__} expects {wanted} input, got {input.dim()}D.")
