"""Why an operation over many numbers has none to give: rows that are masked throughout, nothing left to average."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_tuning.trace._evidence import Evidence
from lightning_tuning.trace._words import largest, limit

__all__ = ["NORMALISATIONS", "SOFTMAX", "of_reduction"]

SOFTMAX = frozenset({"softmax", "log_softmax", "logsumexp", "scaled_dot_product_attention"})
"""They take -inf for "not this one", and have no answer where nothing is left."""

NORMALISATIONS = frozenset({"batch_norm", "layer_norm", "group_norm", "rms_norm"})

_AVERAGES = frozenset({"mean", "var", "std", "median", "nanmedian", "nanmean", *NORMALISATIONS})

Verdict = tuple[str, str]
"""Cause and detail."""


def of_reduction(evidence: Evidence) -> Verdict | None:
    """Cause and detail of an operation that has nothing left to reduce, or no spread to divide by."""
    op = evidence.op
    if op in SOFTMAX and largest(evidence) < limit(evidence) ** 0.5:
        return _masked(evidence)
    if op == "nll_loss":
        return _ignored(evidence)
    if op == "ctc_loss":
        return _too_long(evidence)
    if op == "weight_norm_interface":
        return "division-by-zero", f"{evidence.function or 'weight_norm'} of a weight whose norm is 0"
    if op not in _AVERAGES or not evidence.inputs:
        return None
    if verdict := _empty(evidence):
        return verdict
    if op in NORMALISATIONS and largest(evidence) < math.sqrt(torch.finfo(torch.float32).max):
        return "division-by-zero", f"{op} of values without variance and eps={evidence.arguments.get('eps')}"
    return None


def _masked(evidence: Evidence) -> Verdict:
    """How many rows hold -inf alone; of attention, the rows of its mask."""
    mask = next((evidence.arguments[name] for name in ("attn_mask", "attn_bias") if name in evidence.arguments), None)
    attention = "attention" in (evidence.function or evidence.op)
    scores = mask if isinstance(mask, Tensor) else evidence.inputs[0]
    dims = evidence.arguments.get("dim", -1)
    blocked = ~scores if scores.dtype is torch.bool else scores == -math.inf
    rows = blocked.all(dim=dims) if isinstance(dims, int) else blocked.flatten(-len(dims) or 0).all(dim=-1)
    if not rows.any():
        return "constant", f"{evidence.op} over a row with an infinite number"
    whose = "rows of the attention mask" if attention else "rows"
    return "masked-softmax", f"{evidence.op}: {int(rows.sum())} of {rows.numel()} {whose} are -inf alone"


def _ignored(evidence: Evidence) -> Verdict | None:
    target, ignore = evidence.arguments.get("target"), evidence.arguments.get("ignore_index")
    name = evidence.function or evidence.op
    if isinstance(target, Tensor) and bool(target.eq(int(ignore or 0)).all()):
        if not target.numel():
            return "empty-reduction", f"{name} of no targets"
        return "all-targets-ignored", f"{name}: all {target.numel()} targets are ignore_index ({ignore})"
    if isinstance(evidence.arguments.get("weight"), Tensor):
        return "all-targets-ignored", f"{name}: the class weights of all targets are 0"
    return None


def _too_long(evidence: Evidence) -> Verdict:
    steps, labels = (evidence.arguments.get(name) for name in ("input_lengths", "target_lengths"))
    shown = ""
    if steps is not None and labels is not None and len(steps):
        most, least = int(torch.as_tensor(labels).max()), int(torch.as_tensor(steps).min())
        shown = f": targets of up to {most} labels, inputs of {least} steps and more"
    return "target-too-long", f"ctc_loss of a target that cannot be aligned{shown}"


def _empty(evidence: Evidence) -> Verdict | None:
    values, results = evidence.inputs[0].numel(), max(evidence.output.numel(), 1)
    if values == 0:
        return "empty-reduction", f"{evidence.op} of no values"
    correction = evidence.arguments.get("correction")
    if correction is None:
        correction = 1 if evidence.arguments.get("unbiased", True) else 0
    if evidence.op in {"var", "std"} and values // results <= correction:
        count = values // results
        return "empty-reduction", f"{evidence.op} of {count} value{'' if count == 1 else 's'}"
    return None
