"""Why an operation on finite numbers gave one that is not: its name and its inputs tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lightning_tuning.trace._evidence import Evidence
from lightning_tuning.trace._reductions import NORMALISATIONS, of_reduction
from lightning_tuning.trace._words import format_of, largest, limit, overflow, show

__all__ = ["diagnose"]

Verdict = tuple[str, str]
"""Cause and detail."""

_ARITHMETIC = frozenset([
    "add", "sub", "rsub", "mul", "square", "sum", "nansum", "mean", "matmul", "dot", "vdot", "conv", "cumsum",
    "cumprod", "prod", "to", "norm", "addcmul", "lerp", "mse_loss", "smooth_l1_loss", "huber_loss", "logcumsumexp",
    "ldexp", "cross", "index_add", "scatter_add", "scatter_reduce", "index_put", "cdist_forward", "lstm",
    "avg_pool2d", "softplus", "i0", "special_i0", "elu", "celu", "logaddexp", "hypot", "addcdiv",
])  # fmt: skip
_MATRIX = frozenset({"linalg_slogdet", "logdet", "linalg_inv_ex", "linalg_solve_ex"})
_INVERSE = frozenset({"acos", "asin", "acosh", "atanh", "erfinv", "ndtri", "special_ndtri"})


def diagnose(evidence: Evidence) -> Verdict:
    """Cause (a key of ``CAUSES``) and detail (the offending value in words) of a forward operation."""
    op = evidence.op
    if not evidence.aten.startswith(("aten::", "prims::")):
        return "unknown-op", f"the custom operator {evidence.aten}"
    values = evidence.offenders()
    if op in _MATRIX:
        return "singular-matrix", f"{op} of a matrix whose determinant is 0"
    if values and (judge := _POINTWISE.get(op)) is not None:
        second = values[1] if len(values) > 1 else next(iter(evidence.scalars), 0.0)
        if verdict := judge(evidence, values[0], second):
            return verdict
    if verdict := of_reduction(evidence):
        return verdict
    if op in _ARITHMETIC | NORMALISATIONS or op in _POINTWISE or largest(evidence) > limit(evidence) ** 0.5:
        return overflow(evidence, values)
    shown = ", ".join(map(show, values)) or f"finite values up to {show(largest(evidence))}"
    return "unknown-op", f"{op} of {shown}"


def _log(evidence: Evidence, value: float, _: float) -> Verdict | None:
    edge = value + 1 if evidence.op == "log1p" else value
    if evidence.op == "logit":
        edge = min(value, 1 - value)
    if edge > 0:
        return None
    return "log-of-zero" if edge == 0 else "log-of-negative", f"{evidence.op} of {show(value)}"


def _xlogy(evidence: Evidence, _: float, value: float) -> Verdict | None:
    edge = value + 1 if "log1p" in evidence.op else value
    if edge > 0:
        return None
    return "log-of-zero" if edge == 0 else "log-of-negative", f"{evidence.op} with a logarithm of {show(value)}"


def _exp(evidence: Evidence, value: float, _: float) -> Verdict:
    dtype = evidence.output.dtype
    edge = math.log(torch.finfo(dtype).max) / (math.log(2) if "exp2" in evidence.op else 1.0)
    return "exp-overflow", f"{evidence.op} of {show(value)} in {format_of(dtype)} (largest: {edge:.2f})"


def _root(evidence: Evidence, value: float, _: float) -> Verdict | None:
    if value < 0:
        return "pow-domain", f"{evidence.op} of {show(value)}"
    return ("division-by-zero", f"{evidence.op} of {show(value)}") if value == 0 and evidence.op == "rsqrt" else None


def _reciprocal(_evidence: Evidence, value: float, _: float) -> Verdict | None:
    return ("division-by-zero", f"1 / {show(value)}") if value == 0 else None


def _divide(_evidence: Evidence, numerator: float, denominator: float) -> Verdict | None:
    return ("division-by-zero", f"{show(numerator)} / {show(denominator)}") if denominator == 0 else None


def _power(evidence: Evidence, base: float, exponent: float) -> Verdict | None:
    if len(evidence.inputs) == 1 and isinstance(evidence.arguments.get("self"), int | float):  # 2 ** x
        base, exponent = float(evidence.arguments["self"]), base
    if (base < 0 and not exponent.is_integer()) or (base == 0 and exponent < 0):
        return "pow-domain", f"({show(base)}) ** {show(exponent)}"
    return None


def _gamma(evidence: Evidence, value: float, _: float) -> Verdict | None:
    return ("gamma-pole", f"{evidence.op} of {show(value)}") if value <= 0 and value.is_integer() else None


def _inverse(evidence: Evidence, value: float, _: float) -> Verdict:
    return "trig-domain", f"{evidence.op} of {show(value)}"


_POINTWISE: dict[str, Callable[[Evidence, float, float], Verdict | None]] = {
    **dict.fromkeys(("log", "log2", "log10", "log1p", "logit"), _log),
    **dict.fromkeys(("xlogy", "special_xlog1py", "special_xlogy"), _xlogy),
    **dict.fromkeys(("exp", "exp2", "special_exp2", "expm1", "sinh", "cosh"), _exp),
    **dict.fromkeys(("sqrt", "rsqrt"), _root),
    **dict.fromkeys(("div", "floor_divide", "remainder", "fmod"), _divide),
    **dict.fromkeys(_INVERSE, _inverse),
    **dict.fromkeys(("lgamma", "digamma", "polygamma"), _gamma),
    "reciprocal": _reciprocal,
    "pow": _power,
}
