"""Why an operation on finite numbers gave one that is not: its name and its inputs tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_tuning.trace._evidence import Evidence

__all__ = ["SOFTMAX", "diagnose"]

Verdict = tuple[str, str]
"""Cause and detail."""

SOFTMAX = frozenset({"softmax", "log_softmax", "logsumexp", "scaled_dot_product_attention"})
"""They take -inf for "not this one", and have no answer where nothing is left."""

_ARITHMETIC = frozenset(
    [
        "add",
        "sub",
        "rsub",
        "mul",
        "square",
        "sum",
        "nansum",
        "mean",
        "matmul",
        "dot",
        "vdot",
        "conv",
        "cumsum",
        "cumprod",
        "prod",
        "to",
        "norm",
        "addcmul",
        "lerp",
        "mse_loss",
        "smooth_l1_loss",
        "huber_loss",
        "logcumsumexp",
        "ldexp",
        "cross",
        "index_add",
        "scatter_add",
        "scatter_reduce",
        "index_put",
        "cdist_forward",
        "lstm",
        "avg_pool2d",
        "softplus",
    ]
)
_PRODUCTS = {**dict.fromkeys(("matmul", "dot", "vdot", "conv"), "products"), "mse_loss": "squares"}
"""What these sum of their inputs: what overflows is larger than any number that went in."""

_NORMALISATIONS = frozenset({"batch_norm", "layer_norm", "group_norm", "rms_norm"})
_INVERSE = frozenset({"acos", "asin", "acosh", "atanh", "erfinv", "ndtri", "special_ndtri"})


def diagnose(evidence: Evidence) -> Verdict:
    """Cause (a key of ``CAUSES``) and detail (the offending value in words) of a forward operation."""
    op = evidence.op
    if not evidence.aten.startswith(("aten::", "prims::")):
        return "unknown-op", f"the custom operator {evidence.aten}"
    values = evidence.offenders()
    if values and (judge := _POINTWISE.get(op)) is not None:
        second = values[1] if len(values) > 1 else next(iter(evidence.scalars), 0.0)
        if verdict := judge(evidence, values[0], second):
            return verdict
    if op in SOFTMAX and _largest(evidence) < _limit(evidence) ** 0.5:
        return "masked-softmax", f"{op} over a row of -inf alone"
    if op == "nll_loss" and (verdict := _ignored(evidence)):
        return verdict
    if verdict := _empty(evidence):
        return verdict
    if op in _NORMALISATIONS and _largest(evidence) < math.sqrt(torch.finfo(torch.float32).max):
        return "division-by-zero", f"{op} of values without variance and eps={evidence.arguments.get('eps')}"
    if op in _ARITHMETIC | _NORMALISATIONS or op in _POINTWISE or _largest(evidence) > _limit(evidence) ** 0.5:
        return _overflow(evidence, values)
    shown = ", ".join(map(_show, values)) or f"finite values up to {_show(_largest(evidence))}"
    return "unknown-op", f"{op} of {shown}"


def _log(evidence: Evidence, value: float, _: float) -> Verdict | None:
    edge = value + 1 if evidence.op == "log1p" else value
    if evidence.op == "logit":
        edge = min(value, 1 - value)
    if edge > 0:
        return None
    return "log-of-zero" if edge == 0 else "log-of-negative", f"{evidence.op} of {_show(value)}"


def _xlogy(evidence: Evidence, _: float, value: float) -> Verdict | None:
    edge = value + 1 if "log1p" in evidence.op else value
    if edge > 0:
        return None
    return "log-of-zero" if edge == 0 else "log-of-negative", f"{evidence.op} with a logarithm of {_show(value)}"


def _exp(evidence: Evidence, value: float, _: float) -> Verdict:
    dtype = evidence.output.dtype
    largest = math.log(torch.finfo(dtype).max) / (math.log(2) if "exp2" in evidence.op else 1.0)
    return "exp-overflow", f"{evidence.op} of {_show(value)} in {_dtype(dtype)} (largest: {largest:.2f})"


def _root(evidence: Evidence, value: float, _: float) -> Verdict | None:
    if value < 0:
        return "pow-domain", f"{evidence.op} of {_show(value)}"
    return ("division-by-zero", f"{evidence.op} of {_show(value)}") if value == 0 and evidence.op == "rsqrt" else None


def _reciprocal(_evidence: Evidence, value: float, _: float) -> Verdict | None:
    return ("division-by-zero", f"1 / {_show(value)}") if value == 0 else None


def _divide(_evidence: Evidence, numerator: float, denominator: float) -> Verdict | None:
    return ("division-by-zero", f"{_show(numerator)} / {_show(denominator)}") if denominator == 0 else None


def _power(evidence: Evidence, base: float, exponent: float) -> Verdict | None:
    if len(evidence.inputs) == 1 and isinstance(evidence.arguments.get("self"), int | float):  # 2 ** x
        base, exponent = float(evidence.arguments["self"]), base
    if (base < 0 and not exponent.is_integer()) or (base == 0 and exponent < 0):
        return "pow-domain", f"({_show(base)}) ** {_show(exponent)}"
    return None


def _inverse(evidence: Evidence, value: float, _: float) -> Verdict:
    return "trig-domain", f"{evidence.op} of {_show(value)}"


_POINTWISE: dict[str, Callable[[Evidence, float, float], Verdict | None]] = {
    **dict.fromkeys(("log", "log2", "log10", "log1p", "logit"), _log),
    **dict.fromkeys(("xlogy", "special_xlog1py", "special_xlogy"), _xlogy),
    **dict.fromkeys(("exp", "exp2", "special_exp2", "expm1", "sinh", "cosh"), _exp),
    **dict.fromkeys(("sqrt", "rsqrt"), _root),
    **dict.fromkeys(("div", "floor_divide", "remainder", "fmod"), _divide),
    **dict.fromkeys(_INVERSE, _inverse),
    "reciprocal": _reciprocal,
    "pow": _power,
}


def _ignored(evidence: Evidence) -> Verdict | None:
    target, ignore = evidence.arguments.get("target"), evidence.arguments.get("ignore_index")
    if isinstance(target, Tensor) and bool(target.eq(int(ignore or 0)).all()):
        return "all-targets-ignored", f"all {target.numel()} targets are ignore_index={ignore}"
    if isinstance(evidence.arguments.get("weight"), Tensor):
        return "all-targets-ignored", "the class weights of all targets are 0"
    return None


def _empty(evidence: Evidence) -> Verdict | None:
    if not evidence.inputs or evidence.op not in {
        "mean",
        "var",
        "std",
        "median",
        "nanmedian",
        "nanmean",
        *_NORMALISATIONS,
    }:
        return None
    values, results = evidence.inputs[0].numel(), max(evidence.output.numel(), 1)
    if values == 0:
        return "empty-reduction", f"{evidence.op} of no values"
    if evidence.op in {"var", "std"} and values // results <= float(evidence.arguments.get("correction", 1) or 0):
        count = values // results
        return "empty-reduction", f"{evidence.op} of {count} value{'' if count == 1 else 's'}"
    return None


def _overflow(evidence: Evidence, values: list[float]) -> Verdict:
    dtype = evidence.output.dtype
    cause = "half-overflow" if dtype is torch.float16 else "overflow"
    limit, largest = _limit(evidence), _largest(evidence)
    if not values and evidence.op in _PRODUCTS:
        what = _PRODUCTS[evidence.op]
        what = what if largest > limit / largest else f"sums of {what}"
        return cause, f"{evidence.op}: {what} of values up to {_show(largest)} exceed {_show(limit)} ({_dtype(dtype)})"
    what = ", ".join(map(_show, values)) if values else f"values up to {_show(largest)}"
    return cause, f"{evidence.op} of {what} in {_dtype(dtype)} (largest: {_show(limit)})"


def _largest(evidence: Evidence) -> float:
    """Largest finite magnitude that went in, in single precision or better."""
    sizes = [tensor.detach().abs().nan_to_num(0.0, 0.0, 0.0).max() for tensor in evidence.inputs if tensor.numel()]
    return max((float(size) for size in sizes), default=0.0)


def _limit(evidence: Evidence) -> float:
    return float(torch.finfo(evidence.output.dtype).max)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _show(value: float) -> str:
    """Four digits, or as many as tell it from the edge of a domain, and a point even with nothing behind it.

    Example:
        >>> _show(2.0), _show(0.12345), _show(1.0000002384185791), _show(-1.0000000000000002)
        ('2.0', '0.1235', '1.0000002', '-1.0000000000000002')
    """
    for digits in (4, 8, 17):
        text = f"{value + 0.0:.{digits}g}"  # no -0
        if abs(float(text)) != 1 or abs(value) == 1:  # where acos, log1p and their like end
            break
    return text if any(mark in text for mark in ".en") else f"{text}.0"
