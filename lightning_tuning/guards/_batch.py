"""The first tensor of a batch that is not finite, with its samples: what can be told without a replay."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_tuning.trace import Origin
from lightning_tuning.trace.batch import batch_tensors

__all__ = ["bad_sample"]


def bad_sample(batch: Any) -> Origin | None:
    """The first floating tensor of a nested batch that holds NaN, or else infinity, and the samples that do.

    A tensor that holds no other than ``-inf`` is passed over: it is the usual mask of an attention. Reads each floating
    tensor back once: for a batch that is already suspected.

    Example:
        >>> import torch
        >>> x = torch.zeros(4, 2)
        >>> x[2, 1] = float("nan")
        >>> bad_sample({"image": x, "label": torch.arange(4)}).sentence()
        "batch['image'] holds NaN in sample 2: 1 of 8 values"
    """
    found = [origin for path, tensor in batch_tensors(batch) if (origin := _judge(path, tensor)) is not None]
    return min(found, key=lambda origin: origin.value != "NaN", default=None)


def _judge(path: str, tensor: Tensor) -> Origin | None:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_sparse or tensor.dtype.itemsize == 1:
        return None
    rows = tensor.detach().reshape(tensor.shape[0] if tensor.ndim else 1, -1)
    for value, bad in (("NaN", rows.isnan()), ("inf", rows.isposinf())):
        samples = bad.any(dim=1).nonzero().flatten().tolist()
        if samples:
            return Origin(
                kind="batch",
                cause="bad-sample",
                detail=f"{path} as it came",
                shape=tuple(tensor.shape),
                bad=int(bad.sum()),
                total=tensor.numel(),
                value=value,
                names=(path,),
                samples=tuple(samples),
            )
    return None
