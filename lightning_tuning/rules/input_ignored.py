"""LT110: a model that learns as much from zeros as from its inputs."""

from __future__ import annotations

import math

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT110", "input_ignored"]

LT110 = register(
    Rule(
        code="LT110",
        name="input-ignored",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "A net that fits a batch no better with its inputs than with zeros in their place learns the frequencies "
            "of the targets and nothing else: the inputs are lost on the way (overwritten, detached, saturated, or "
            "drowned by a layer in between)."
        ),
        remedy=(
            "follow one batch through the net and print `h.std(dim=0).mean()` behind each layer: where it becomes 0 "
            "the input is lost; is the right variable passed on, and is nothing detached?"
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks (input-independent baseline)",
    )
)

NO_BETTER = 0.95  # of the loss with zeroed inputs
NOTHING_TO_LEARN = 0.2  # of the first loss, reached without inputs: the targets of the batch hardly differ


def input_ignored(
    real: float, zeroed: float, first: float, *, iterations: int, where: str = "", least: float = 0.0
) -> Finding | None:
    """LT110 if the best loss with the real inputs is no better than .95 of that with zeroed ones.

    Args:
        real: the lowest loss in so many iterations on one batch.
        zeroed: the same from the same start with zeros for inputs.
        first: the loss before the first of them, with the real inputs.
        iterations: how many.
        where: key path of the inputs that were zeroed.
        least: the lowest value that the loss can have.

    Returns:
        The finding; ``None`` too where nothing can be told: a loss that is not finite, or is easily learned without
        inputs.

    Example:
        >>> input_ignored(1.02, 1.02, 1.2, iterations=200).evidence["ratio"]
        1.0
        >>> input_ignored(0.01, 1.02, 1.2, iterations=200) is None
        True
    """
    real, zeroed, first = real - least, zeroed - least, first - least
    if not all(map(math.isfinite, (real, zeroed, first))) or min(real, zeroed, first) <= 0:
        return None
    if zeroed < NOTHING_TO_LEARN * first or real <= NO_BETTER * zeroed:
        return None
    return LT110.finding(
        f"after {iterations} iterations on one batch the loss is {real:.3g}, with zeros for inputs {zeroed:.3g} "
        f"({real / zeroed:.2f} of it > {NO_BETTER:g}): nothing of the input arrives",
        where=where,
        evidence={
            "loss": real,
            "loss_with_zeros": zeroed,
            "ratio": round(real / zeroed, 4),
            "first_loss": first,
            "iterations": iterations,
        },
    )
