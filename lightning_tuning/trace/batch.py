"""The tensors of a batch, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["batch_tensors"]


def batch_tensors(batch: Any, path: str = "batch", depth: int = 6) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch with their key paths (``"batch['image']"``), in containers and objects.

    Nested tensors of strided layout are left out: they have no shape.
    """
    if isinstance(batch, Tensor):
        if not batch.is_nested or batch.layout is not torch.strided:
            yield path, batch
    elif (
        depth == 0 or isinstance(batch, str | bytes | int | float | torch.Generator | torch.nn.Module) or batch is None
    ):
        return
    elif isinstance(batch, Mapping):
        for key in batch:
            yield from batch_tensors(batch[key], f"{path}[{key!r}]", depth - 1)
    elif isinstance(batch, tuple) and hasattr(batch, "_fields"):
        for key in batch._fields:
            yield from batch_tensors(getattr(batch, key), f"{path}.{key}", depth - 1)
    elif isinstance(batch, list | tuple):
        for index, item in enumerate(batch):
            yield from batch_tensors(item, f"{path}[{index}]", depth - 1)
    elif hasattr(batch, "__dict__"):
        for key, item in vars(batch).items():
            yield from batch_tensors(item, f"{path}.{key}", depth - 1)
