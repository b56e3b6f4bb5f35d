"""Numbers and number formats in the words of a finding."""

from __future__ import annotations

import torch

from lightning_tuning.trace._evidence import Evidence

__all__ = ["format_of", "largest", "limit", "overflow", "show"]

_PRODUCTS = {**dict.fromkeys(("matmul", "dot", "vdot", "conv"), "products"), "mse_loss": "squares"}
"""What these sum of their inputs: what overflows is larger than any number that went in."""

_SUM = 2
"""``reduction="sum"`` of a loss function, as the operators below take it."""


def overflow(evidence: Evidence, values: list[float]) -> tuple[str, str]:
    """Cause and detail of a result above what its number format holds.

    Args:
        evidence: of the operation.
        values: the operands to blame, where they are known.
    """
    dtype = evidence.output.dtype
    cause = "half-overflow" if dtype is torch.float16 else "overflow"
    bound, most = limit(evidence), largest(evidence)
    if not values and _is_sum_of_many(evidence):
        count = evidence.inputs[0].numel() // max(evidence.output.numel(), 1)
        return "sum-reduction", f"{evidence.op} over {count} values up to {show(most)} exceeds {_format(evidence)}"
    if not values and evidence.op in _PRODUCTS:
        what = _PRODUCTS[evidence.op]
        what = what if most > bound / most else f"sums of {what}"
        return cause, f"{evidence.op}: {what} of values up to {show(most)} exceed {_format(evidence)}"
    what = ", ".join(map(show, values)) if values else f"values up to {show(most)}"
    return cause, f"{evidence.op} of {what} in {format_of(dtype)} (largest: {show(bound)})"


def largest(evidence: Evidence) -> float:
    """Largest finite magnitude that went in, in single precision or better."""
    sizes = [tensor.detach().abs().nan_to_num(0.0, 0.0, 0.0).max() for tensor in evidence.inputs if tensor.numel()]
    return max((float(size) for size in sizes), default=0.0)


def limit(evidence: Evidence) -> float:
    """The largest number that the result's format holds."""
    return float(torch.finfo(evidence.output.dtype).max)


def format_of(dtype: torch.dtype) -> str:
    """``"float32"``."""
    return str(dtype).removeprefix("torch.")


def show(value: float) -> str:
    """Four digits, or as many as tell it from the edge of a domain, and a point even with nothing behind it.

    Example:
        >>> show(2.0), show(0.12345), show(1.0000002384185791), show(-1.0000000000000002)
        ('2.0', '0.1235', '1.0000002', '-1.0000000000000002')
    """
    for digits in (4, 8, 17):
        text = f"{value + 0.0:.{digits}g}"  # no -0
        if abs(float(text)) != 1 or abs(value) == 1:  # where acos, log1p and their like end
            break
    return text if any(mark in text for mark in ".en") else f"{text}.0"


def _format(evidence: Evidence) -> str:
    return f"{show(limit(evidence))} ({format_of(evidence.output.dtype)})"


def _is_sum_of_many(evidence: Evidence) -> bool:
    """A sum of moderate numbers, or a loss with ``reduction="sum"``, whose mean would be a number."""
    summed = evidence.op in ("sum", "nansum") or evidence.arguments.get("reduction") == _SUM
    most, bound = largest(evidence), limit(evidence)
    return summed and most < bound**0.5 and most < bound / 16
