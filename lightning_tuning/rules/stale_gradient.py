"""LT607: gradients of one update that are still there when the next one's are added."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import listing

__all__ = ["LT607", "PERSISTENCE", "never_set_back", "stale_gradient"]

LT607 = register(
    Rule(
        code="LT607",
        name="stale-gradient",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "`backward` adds to `.grad` and never empties it: an update from gradients that were not set back follows "
            "the sum of all batches so far, momentum without end. The loss swings, or grows until it overflows."
        ),
        remedy=(
            "call `optimizer.zero_grad()` before every `self.manual_backward(loss)` that starts a new update; under "
            "automatic optimization leave `optimizer_zero_grad` to Lightning."
        ),
        source="PyTorch documentation, zeroing out gradients; Zhang et al. 2018, An empirical study on TensorFlow bugs",
    )
)

PERSISTENCE = 3
"""Updates in a row; one or two may be the start of a loop that sets back now and then."""

_AUTOMATIC = "let `optimizer_zero_grad` call `optimizer.zero_grad()`, or remove it: Lightning's own does."


def stale_gradient(
    names: Sequence[str], *, updates: int, parameters: int, where: str, automatic: bool = False
) -> Finding | None:
    """LT607 if the gradients of several updates in a row were added up.

    Args:
        names: of the parameters whose gradient of the update before was still there, unchanged and not zero, when that
            of the next was added, and went into it.
        updates: in a row, of which that is true.
        parameters: that the optimizer has a gradient of.
        where: which optimizer.
        automatic: Lightning steps it, and the module or the optimizer has a ``zero_grad`` of its own.

    Example:
        >>> stale_gradient(["net.weight"], updates=3, parameters=2, where="SGD").message
        '3 updates in a row added to the gradients of those before, of `net.weight` (1 of 2 parameters)'
        >>> stale_gradient([], updates=3, parameters=2, where="SGD")
    """
    if not names or updates < PERSISTENCE:
        return None
    return LT607.finding(
        f"{updates} updates in a row added to the gradients of those before, of {listing(names)} ({len(names)} of "
        f"{parameters} parameters)",
        where=where,
        evidence={"stale_updates": updates, "parameters": len(names), "of": parameters, "threshold": PERSISTENCE},
        remedy=_AUTOMATIC if automatic else LT607.remedy,
    )


def never_set_back(updates: int) -> str:
    """What a guard says that finds the same afterwards, when the loss has overflown.

    Example:
        >>> never_set_back(57)
        'gradients were not set back once in 57 updates: each adds to all before (LT607)'
    """
    return f"gradients were not set back once in {updates} updates: each adds to all before (LT607)"
