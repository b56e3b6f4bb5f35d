"""What of an activation is counted in passing: silent units, saturated values, the entropy of attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["attention_rows", "attention_scores", "saturation", "score_spread", "silent_units"]

SATURATED_TANH, SATURATED_SIGMOID = 0.97, 0.02
ONE_HOT, UNIFORM = 0.02, 0.98
_FEWEST_KEYS = 4
_MASKED = -5e3
"""Scores below it are masked: by -inf, by a type's minimum, or by -1e4 (added to a score, in older transformers)."""
_SAMPLES, _QUERIES = 8, 64
"""As many tell what an attention looks like; all of them would cost as much as the attention itself."""


def silent_units(values: Tensor, dim: int, *, exact: bool = False) -> Tensor:
    """For each unit 1.0 if none of its values is above 0, else 0.0 (NaN is above); float32.

    Args:
        values: behind the activation.
        dim: of the units; all others are samples and positions.
        exact: nor below 0 either: for activations that let negative values through.

    Example:
        >>> silent_units(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), dim=-1)
        tensor([1., 0.])
    """
    values = values.detach()
    if values.stride(dim) == 1:  # twenty times as fast as a reduction over the outer dimensions of channels_last
        values, others = values.movedim(dim, -1).flatten(0, -2), [0]
    else:
        others = [i for i in range(values.dim()) if i != dim % values.dim()]
    silent = values.amax(others) <= 0
    return (silent & (values.amin(others) >= 0) if exact else silent).float()


def saturation(values: Tensor, name: str) -> Tensor:
    """The share of values in the flat ends of a tanh (abs > .97) or sigmoid (outside .02 to .98); 0-d, float32.

    There the slope is 6 % and 8 % of its largest value, or less.

    Example:
        >>> saturation(torch.tensor([0.5, 0.99, 0.001, 0.02]), "sigmoid")
        tensor(0.5000)
    """
    values = values.detach()
    flat = values.abs() > SATURATED_TANH if name == "tanh" else (values - 0.5).abs() > 0.5 - SATURATED_SIGMOID
    return flat.count_nonzero().float() / max(flat.numel(), 1)


def attention_scores(  # noqa: PLR0917 (the order is torch's)
    query: Tensor,
    key: Tensor,
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The scores of some samples and queries, as ``scaled_dot_product_attention`` computes them from its arguments.

    At most eight samples and 64 queries (the last ones: under a causal mask they have the most keys); float32, masked
    ones -inf.
    """
    del value, dropout_p
    samples = min(_SAMPLES, query.shape[0]) if query.dim() > 2 else query.shape[0]
    queries = query.shape[-2] if query.dim() > 2 else query.shape[0]
    first = max(0, queries - _QUERIES)
    with torch.autocast(query.device.type, enabled=False):
        q = query.detach()[:samples, ..., first:, :].float() if query.dim() > 2 else query.detach()[first:].float()
        k = (key.detach()[:samples] if key.dim() > 2 else key.detach()).float()
        if enable_gqa and k.shape[-3] != q.shape[-3]:
            k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
        scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        later = torch.ones(queries, k.shape[-2], dtype=torch.bool, device=q.device).triu(1)[first:]
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        mask = attn_mask.detach()
        if mask.dim() == query.dim() > 2 and mask.shape[0] > 1:
            mask = mask[:samples]
        if mask.shape[-2] > 1:
            mask = mask[..., first:, :]
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores


def attention_rows(scores: Tensor, dim: int = -1) -> Tensor:
    """How many queries see one key, and how many see all alike: ``[one-hot, uniform, sum of entropies, queries]``.

    Entropies are in units of the largest possible one, ln of the keys that are not masked; queries with less than four
    of those are left out. Of a batch the first eight samples are looked at. Float32, unread.

    Args:
        scores: before the softmax.
        dim: of the keys.
    """
    scores, valid = _some(scores, dim)
    keys = valid.sum(-1)
    weights = torch.softmax(scores.masked_fill(~valid, -math.inf), -1)
    entropy = torch.special.entr(weights).sum(-1) / keys.clamp(min=2).log()
    judged = (keys >= _FEWEST_KEYS) & entropy.isfinite()
    counts = [judged & (entropy < ONE_HOT), judged & (entropy > UNIFORM), entropy.where(judged, 0.0), judged]
    return torch.stack([count.sum().float() for count in counts])


def score_spread(scores: Tensor, dim: int = -1) -> Tensor:
    """Standard deviation of the scores of one query, as the root mean square over queries; 0-d, float32, unread."""
    scores, valid = _some(scores, dim)
    keys = valid.sum(-1, keepdim=True)
    mean = scores.where(valid, 0.0).sum(-1, keepdim=True) / keys.clamp(min=1)
    square = ((scores - mean).where(valid, 0.0) ** 2).sum(-1, keepdim=True) / keys.clamp(min=1)
    judged = keys >= _FEWEST_KEYS
    return (square.where(judged, 0.0).sum() / judged.sum().clamp(min=1)).sqrt()


def _some(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The first samples with the keys last, and which scores are not masked."""
    dim = dim % scores.dim()
    scores = scores.detach()
    if dim != 0:
        scores = scores[:_SAMPLES]
    scores = scores.movedim(dim, -1).float()
    return scores, scores > _MASKED
