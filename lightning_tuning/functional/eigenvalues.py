"""The largest eigenvalue of a symmetric matrix that is known by its products with vectors alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TopEigenvalue", "top_eigenvalue"]

Vector = Sequence[Tensor]
"""A vector in pieces, as parameters are."""


class TopEigenvalue(NamedTuple):
    """The largest eigenvalue as far as it was found.

    Attributes:
        value: 0-d; but for rounding never above the largest eigenvalue, so what is not found yet is missing from it.
        residual: 0-d; an eigenvalue lies within this distance of ``value``.
        iterations: products made.
    """

    value: Tensor
    residual: Tensor
    iterations: int


def top_eigenvalue(
    product: Callable[[list[Tensor]], Vector],
    start: Vector,
    *,
    iterations: int = 20,
    stop: Callable[[TopEigenvalue], bool] | None = None,
) -> TopEigenvalue:
    """The largest eigenvalue of a symmetric matrix of which nothing is known but its products with vectors.

    Lanczos' method, which costs per product what power iteration does, needs the root of its iterations, and does not
    take a large negative eigenvalue for the largest. Vectors are not orthogonalized again: eigenvalues at the edge do
    not suffer from that, they may only appear twice. Nothing is read back.

    Args:
        product: multiplies the matrix with a vector, given and returned in pieces.
        start: the pieces of the first vector, not all zero, real or complex (of a Hermitian matrix). A random one: a
            direction that it has no part in is never found.
        iterations: products at most.
        stop: asked after every product whether this will do. Default: never.

    Returns:
        NaN where a product is not finite; 0 for vectors of no elements.

    Raises:
        ValueError: if ``iterations`` is less than 1.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> round(top_eigenvalue(lambda x: [matrix @ x[0]], [torch.tensor([1.0, 0.5])]).value.item(), 4)
        3.0

    Source: Golub and Van Loan 2013, Matrix Computations, section 10.1; Paige 1980, Accuracy and effectiveness of the
    Lanczos algorithm.
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations!r}.")
    length = _length(start)
    precision = torch.finfo(length.dtype).eps
    alive = length > 0  # the vectors made so far do not yet span all that the matrix does to the first one
    vector = _divided(start, length, alive)
    before = [torch.zeros_like(piece) for piece in start]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    found = TopEigenvalue(length, length, 0)
    for made in range(1, iterations + 1):
        image = [piece.detach() for piece in product(vector)]
        if beside:
            image = _less(image, beside[-1], before)
        overlap = _dot(vector, image)
        image = _less(image, overlap, vector)
        length = _length(image)
        # Once all is spanned, what follows is a copy of the first entry, which leaves the largest eigenvalue alone.
        diagonal.append(torch.where(alive, overlap, diagonal[0]) if diagonal else overlap)
        alive = alive & (length > precision * torch.stack([*diagonal, *beside, length]).abs().max())
        beside.append(torch.where(alive, length, torch.zeros_like(length)))
        before, vector = vector, _divided(image, length, alive)
        if stop is not None or made == iterations:
            found = _top(diagonal, beside, made)
            if stop is not None and stop(found):
                break
    return found


def _dot(one: Vector, other: Vector) -> Tensor:
    """The real inner product, on the device of the first piece."""
    home = one[0].device
    parts = [torch.vdot(a.reshape(-1), b.reshape(-1)).real.to(home) for a, b in zip(one, other, strict=True)]
    return torch.stack(parts).sum()


def _length(vector: Vector) -> Tensor:
    return _dot(vector, vector).sqrt()


def _less(vector: Vector, factor: Tensor, other: Vector) -> list[Tensor]:
    return [a - factor.to(a.device) * b for a, b in zip(vector, other, strict=True)]


def _divided(vector: Vector, length: Tensor, where: Tensor) -> list[Tensor]:
    """``vector / length``, or zeros."""
    factor = torch.where(where, 1 / length, torch.zeros_like(length))
    return [factor.to(piece.device) * piece for piece in vector]


def _top(diagonal: list[Tensor], beside: list[Tensor], made: int) -> TopEigenvalue:
    inner = torch.stack(beside[:-1]) if made > 1 else diagonal[0].new_zeros(0)
    matrix = torch.diag(torch.stack(diagonal)) + torch.diag(inner, 1) + torch.diag(inner, -1)
    known = matrix.isfinite().all()  # torch.linalg.eigh refuses what is not
    values, vectors = torch.linalg.eigh(torch.where(known, matrix, torch.zeros_like(matrix)))
    value, part = values.select(0, -1), vectors.select(1, -1).select(0, -1)  # ascending: the last one is the largest
    unknown = torch.full_like(value, math.nan)
    return TopEigenvalue(torch.where(known, value, unknown), torch.where(known, beside[-1] * part.abs(), unknown), made)
