"""What to change where a number stopped being finite: by its cause, and by what else is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_tuning.trace.nonfinite import Origin

__all__ = ["REMEDIES", "START_AGAIN", "remedy_for", "remedy_for_weights"]

START_AGAIN = "start again from the last good checkpoint, with a lower learning rate or clipped gradients."

REMEDIES = {
    "bad-sample": "mend or filter the data; `NanLossGuard(action='skip')` drops such batches.",
    "bad-weights": START_AGAIN,
    "log-of-zero": "bound it below: `x.clamp_min(eps).log()`, or take `log_softmax`/`logsigmoid` of the logits.",
    "log-of-negative": "keep the argument positive: `F.softplus(x)`, or `x.clamp_min(eps)`.",
    "exp-overflow": "bound the exponent (`x.clamp_max(20)`), or use `logsumexp`, `softmax`, `log_softmax`.",
    "overflow": "lower the learning rate, clip with `Trainer(gradient_clip_val=...)`, or normalize what goes in.",
    "half-overflow": "`Trainer(precision='bf16-mixed')`, or run this operation in float32.",
    "division-by-zero": "divide by `x.clamp_min(eps)` or `x + eps`.",
    "sqrt-at-zero": "put the eps inside: `(x + eps).sqrt()`, or `x.clamp_min(eps).sqrt()`.",
    "norm-at-zero": "put an eps inside: `(x.square().sum(-1) + eps).sqrt()`, or use `F.normalize`.",
    "pow-domain": "keep the base above 0: `x.clamp_min(eps) ** p`.",
    "trig-domain": "stay off the edge: `x.clamp(-1 + eps, 1 - eps)`.",
    "repeated-eigenvalues": (
        "use the values without the vectors (`eigvalsh`, `svdvals`), `.detach()` the vectors, or break the tie: "
        "`a + torch.diag(eps * torch.arange(n))`."
    ),
    "masked-softmax": "leave one position unmasked in every row, or mask with a large finite number instead of -inf.",
    "empty-reduction": "guard the empty case: `x.mean() if x.numel() else x.sum()`.",
    "all-targets-ignored": "`reduction='sum'` divided by `valid.sum().clamp_min(1)`.",
    "where-branch": "mask what goes in too: `torch.where(ok, torch.where(ok, x, 1).log(), 0)`.",
    "constant": (
        "put a finite number in its place (for a mask `torch.finfo(x.dtype).min`), or keep it from reaching the loss."
    ),
    "not-reproduced": (
        "try `Trainer(detect_anomaly=True)`, which names the operation when it happens in a backward pass, and "
        "`Trainer(deterministic=True)`; look at what the step reads from outside the module."
    ),
    "exploding-gradients": "clip: `Trainer(gradient_clip_val=...)`, lower the learning rate, or warm it up.",
}
"""What to change, by cause; for other causes the rule's own remedy."""

_BEFORE_TRAINING = (
    "nothing was trained yet: look at the initialization, at the file that was loaded, and at `torch.empty`, which "
    "holds whatever was in that memory."
)


def remedy_for(cause: str, origin: Origin | None, *, step: int) -> str | None:
    """The remedy for a bad step whose parameters are finite; ``None``: the rule's own.

    Args:
        cause: as the finding names it.
        origin: where the first bad number came from, if that is known.
        step: updates made so far.

    Example:
        >>> from lightning_tuning.trace import Origin
        >>> remedy_for("empty-reduction", Origin("forward", "empty-reduction", "std"), step=3)
        'give it `correction=0`, or guard it: `x.std() if len(x) > 1 else x.sum() * 0`.'
    """
    if origin is None or cause != origin.cause:
        return REMEDIES.get(cause)
    if cause == "empty-reduction" and origin.op in ("std", "var"):
        return f"give it `correction=0`, or guard it: `x.{origin.op}() if len(x) > 1 else x.sum() * 0`."
    if cause == "constant" and " with " in origin.detail:
        return f"{origin.detail.rpartition(' with ')[2]} is a constant of the code: {REMEDIES[cause]}"
    if cause == "bad-weights":  # parameters are finite, so these are buffers
        if step == 0:
            return _BEFORE_TRAINING
        return "look at what writes the buffer: running statistics keep one bad batch for good; recompute or reload it."
    return REMEDIES.get(cause)


def remedy_for_weights(*, step: int) -> str:
    """The remedy for parameters that are not finite after ``step`` updates."""
    return START_AGAIN if step else _BEFORE_TRAINING
