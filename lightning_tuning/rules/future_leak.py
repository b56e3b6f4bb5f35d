"""LT112: a next-token model whose output at one step depends on the inputs of later steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LT112", "Shift", "future_leak", "next_token_shift"]

LT112 = register(
    Rule(
        code="LT112",
        name="future-leak",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "The target of each step is the next input, and the output can see that input: the loss falls towards 0 by "
            "copying, and what was learned is of no use where the future is not there yet, in generation."
        ),
        remedy=(
            "mask the attention: `F.scaled_dot_product_attention(q, k, v, is_causal=True)` or `attn_mask` from "
            "`nn.Transformer.generate_square_subsequent_mask(T)`; pad convolutions on the left only; no "
            "`bidirectional=True`, no mean over time."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks (use backprop to chart dependencies)",
    )
)

RELATIVE = 1e-4  # of the gradient with respect to what the step may see
MIN_MATCHES = 8  # pairs of a target and the next input: fewer may agree by chance
MIN_DIFFERENT = 3  # values among them


class Shift(NamedTuple):
    """How targets and inputs lie, where a target is the next input.

    Attributes:
        batch_first: inputs are (batch, time), else (time, batch).
        steps: of the target.
        matches: targets that are the next input; all that count and have one.
    """

    batch_first: bool
    steps: int
    matches: int


def next_token_shift(inputs: Tensor, target: Tensor, *, ignore_index: int = -100) -> Shift | None:
    """Whether ``target`` is ``inputs`` one step later; ``None`` if it is not.

    All targets that count must be the next input, and not the present one (as in copying or in a constant sequence).
    Reads values back from the device.

    Args:
        inputs: (batch, time) or (time, batch), with more dimensions if a step holds several numbers.
        target: of as many steps or one less, flattened or not.
        ignore_index: targets that do not count.

    Example:
        >>> tokens = torch.arange(20).reshape(2, 10) % 7
        >>> next_token_shift(tokens[:, :-1], tokens[:, 1:].reshape(-1))
        Shift(batch_first=True, steps=9, matches=16)
        >>> next_token_shift(tokens, tokens) is None
        True
    """
    if inputs.dim() < 2 or inputs.numel() == 0 or target.numel() == 0:
        return None
    target, inputs = target.detach(), inputs.detach()
    for batch_first in (True, False):
        source = inputs if batch_first else inputs.transpose(0, 1)
        samples, length, *features = source.shape
        for steps in (length, length - 1):
            if steps < 2 or target.numel() != samples * steps * max(1, int(torch.tensor(features).prod())):
                continue
            if target.dim() > 1 and tuple(target.shape[:2]) not in {
                (samples, steps) if batch_first else (steps, samples),
                (samples * steps, *features[:1]),
            }:
                continue
            layout = (samples, steps) if batch_first else (steps, samples)
            table = target.reshape(*layout, *features)
            table = table if batch_first else table.transpose(0, 1)
            matches = _matches(source, table, ignore_index)
            if matches:
                return Shift(batch_first, steps, matches)
    return None


def _matches(source: Tensor, target: Tensor, ignore_index: int) -> int:
    """How many targets are the next input; 0 unless all that count are, and they are not the present one."""
    following = source[:, 1 : target.shape[1] + 1]
    target, present = target[:, : following.shape[1]], source[:, : following.shape[1]]
    counts = target != ignore_index
    agree = (target == following)[counts]
    stays = (target == present)[counts]
    if agree.numel() < MIN_MATCHES or not bool(agree.all()) or bool(stays.float().mean() > 0.5):
        return 0
    return int(agree.numel()) if len(set(target[counts].tolist())) >= MIN_DIFFERENT else 0


def future_leak(
    past: float, future: float, *, step: int, steps: int, where: str = "", source_line: str | None = None
) -> Finding | None:
    """LT112 if the gradient of the output at ``step`` with respect to later inputs is not 0.

    Args:
        past: the largest absolute gradient with respect to inputs up to this step.
        future: the same for later ones.
        step: which.
        steps: how many there are.
        where: the module in which the future comes in, if known.
        source_line: the line that does it.

    Example:
        >>> future_leak(0.5, 0.0, step=3, steps=8) is None
        True
        >>> future_leak(0.5, 0.25, step=3, steps=8).evidence
        {'step': 3, 'steps': 8, 'past_gradient': 0.5, 'future_gradient': 0.25}
    """
    if not (0 <= past < float("inf") and 0 < future < float("inf")) or future <= RELATIVE * past:
        return None
    return LT112.finding(
        f"each target is the next input, and the output at step {step} of {steps} depends on later inputs (gradient "
        f"{future:.2g} > 0; with respect to earlier ones {past:.2g})",
        where=where,
        source_line=source_line,
        evidence={"step": step, "steps": steps, "past_gradient": past, "future_gradient": future},
    )
