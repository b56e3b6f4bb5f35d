"""Gradient norms of sharded parameters: the one place where the pieces of all ranks are put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_tuning.functional import tensor_norms

__all__ = ["sharded_norms"]


def sharded_norms(gradients: Sequence[Tensor], *, flat_copies: int | None = None) -> Tensor:
    """The L2 norm of each whole gradient, where this rank may hold only a piece of it.

    ``DTensor.norm().item()`` is the norm of the *local* piece, on which ranks disagree. Here the float32 squares of the
    local pieces are summed over all ranks, each divided by the number of ranks that hold the same piece. Every rank
    must call it (one all-reduce of a vector as long as ``gradients``, only if something is sharded).

    Args:
        gradients: tensors or ``DTensor`` s, in the same order on every rank; empty pieces are fine.
        flat_copies: ``None`` (default): plain tensors are whole. A number: they are pieces too (FSDP1 with
            ``use_orig_params``), and so many ranks hold the same one.

    Returns:
        float32 vector of shape ``(len(gradients),)``, equal on all ranks.

    Example:
        >>> sharded_norms([torch.tensor([3.0, 4.0])], flat_copies=None)
        tensor([5.])
    """
    together = dist.is_available() and dist.is_initialized()
    if not together or not (flat_copies or any(map(_is_sharded, gradients))):
        return tensor_norms(gradients)
    norms = tensor_norms([g.to_local() if _is_sharded(g) else g for g in gradients])  # type: ignore[attr-defined]
    copies = [_copies(g, flat_copies) for g in gradients]
    alike = len(set(copies)) == 1
    # A tensor of them has to be copied to the device; nearly always one number will do.
    squares = norms.square() / (copies[0] if alike else torch.tensor(copies, dtype=torch.float32, device=norms.device))
    dist.all_reduce(squares)
    return squares.sqrt()


def _is_sharded(gradient: Tensor) -> bool:
    return hasattr(gradient, "to_local")


def _copies(gradient: Tensor, flat_copies: int | None) -> int:
    """How many ranks hold the same piece of ``gradient``."""
    world = dist.get_world_size()
    if not _is_sharded(gradient):
        return flat_copies or world
    mesh, placements = gradient.device_mesh, gradient.placements  # type: ignore[attr-defined]
    pieces = 1
    for dimension, placement in enumerate(placements):
        if placement.is_shard():
            pieces *= mesh.size(dimension)
    return world // pieces
