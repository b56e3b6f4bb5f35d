"""A batch norm that stays as it is."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FrozenBatchNorm"]


class FrozenBatchNorm(nn.Module):
    """A batch norm in evaluation for good: it normalizes by its running statistics, whatever ``train()`` says.

    For detectors and fine-tuning with a few samples per device, where the statistics of the pretrained net are better
    than those of the batches. A fixed affine map per channel: samples do not see each other. Its ``state_dict`` has the
    keys of ``nn.BatchNorm*d``, either loads the other's.

    Args:
        num_features: channels.
        eps: added to the variance. Default 1e-5.
        affine: whether there are scale and shift. Default true.
        freeze_affine: whether those are buffers, fixed as the statistics (default), or parameters that train.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Example:
        >>> norm = FrozenBatchNorm(2)
        >>> norm(torch.tensor([[1.0, 3.0]])), [*norm.parameters()]
        (tensor([[1.0000, 3.0000]]), [])

    Source: He et al. 2016, Deep residual learning, appendix A: batch norms of the pretrained net are fixed in
        detection.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        freeze_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.affine, self.freeze_affine = num_features, eps, affine, freeze_affine
        place = {"device": device, "dtype": dtype}
        for name, value in (("weight", torch.ones), ("bias", torch.zeros)):
            tensor = value(num_features, **place) if affine else None
            if tensor is None or not freeze_affine:
                self.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        self.register_buffer("running_mean", torch.zeros(num_features, **place))
        self.register_buffer("running_var", torch.ones(num_features, **place))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device))

    @classmethod
    def of(cls, norm: _BatchNorm, *, freeze_affine: bool = True) -> FrozenBatchNorm:
        """The frozen twin of ``norm``, with copies of its statistics; parameters that train stay the same objects.

        Raises:
            ValueError: if ``norm`` keeps no running statistics.
        """
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            raise ValueError(f"`norm` must keep running statistics, got {norm}.")
        mean = norm.running_mean
        frozen = cls(
            norm.num_features,
            norm.eps,
            norm.affine,
            freeze_affine=freeze_affine,
            device=mean.device,
            dtype=mean.dtype,
        )
        with torch.no_grad():
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                getattr(frozen, name).copy_(getattr(norm, name))
            for name in ("weight", "bias"):
                value = getattr(norm, name)
                if value is None or not freeze_affine:
                    setattr(frozen, name, value)
                else:
                    frozen._buffers[name] = value.detach().clone()
        frozen.train(norm.training)
        return frozen

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalize ``input`` of shape ``(N, C, ...)``."""
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        """Like torch's."""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}, freeze_affine={self.freeze_affine}"
