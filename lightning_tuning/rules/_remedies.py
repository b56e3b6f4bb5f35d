"""What to change where a number stopped being finite: by its cause, and by what else is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings.causes import CAUSES

if TYPE_CHECKING:
    from lightning_tuning.trace.nonfinite import Origin

__all__ = ["REMEDIES", "START_AGAIN", "remedy_for", "remedy_for_weights"]

REMEDIES = {slug: cause.remedy for slug, cause in CAUSES.items()}
"""What to change, by cause."""

START_AGAIN = "start again from the last good checkpoint, with a lower learning rate or clipped gradients."

_BEFORE_TRAINING = (
    "nothing was trained yet: look at the initialization, at the file that was loaded, and at `torch.empty`, which "
    "holds whatever was in that memory."
)


def remedy_for(cause: str, origin: Origin | None, *, step: int) -> str:
    """The remedy for a bad step whose parameters are finite.

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
        return REMEDIES[cause]
    if cause == "empty-reduction" and origin.op in ("std", "var"):
        return f"give it `correction=0`, or guard it: `x.{origin.op}() if len(x) > 1 else x.sum() * 0`."
    if cause == "constant" and " with " in origin.detail:
        return f"{origin.detail.rpartition(' with ')[2]} is a constant of the code: {REMEDIES[cause]}"
    if cause == "bad-weights":  # parameters are finite, so these are buffers
        if step == 0:
            return _BEFORE_TRAINING
        return "look at what writes the buffer: running statistics keep one bad batch for good; recompute or reload it."
    return REMEDIES[cause]


def remedy_for_weights(cause: str = "bad-weights", *, step: int) -> str:
    """The remedy for parameters that are not finite after ``step`` updates."""
    if not step:
        return _BEFORE_TRAINING
    return (
        START_AGAIN if cause == "bad-weights" else f"start again from the last good checkpoint, and {REMEDIES[cause]}"
    )
