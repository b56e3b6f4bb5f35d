"""The arguments of AdaptiveClipGuard that only some of its methods take."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from lightning_tuning.functional._numbers import is_number

__all__ = ["Method", "checked_threshold"]

Method = Literal["percentile", "zscore", "agc", "value", "norm"]

_DEFAULTS: dict[str, float | None] = {"percentile": math.inf, "zscore": 2.5, "agc": 0.01, "value": None, "norm": None}


def checked_threshold(method: Any, *, percentile: Any, window: Any, threshold: Any, warmup: Any) -> float:
    """``threshold``, or the default of ``method``; inf for ``"percentile"``, which finds it itself.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {get_args(Method)}, got {method!r}.")
    if not is_number(percentile) or not 0 <= percentile <= 100:
        raise ValueError(f"`percentile` must be between 0 and 100, got {percentile!r}.")
    for name, count in (("window", window), ("warmup", warmup)):
        if type(count) is not int or count < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {count!r}.")
    if method == "percentile" and warmup > window:
        raise ValueError(f"`warmup` must be at most `window` ({window}), got {warmup}.")
    if method == "percentile" and threshold is not None:
        raise ValueError(f"`threshold` must be None for method='percentile', got {threshold!r}.")
    if threshold is None and (default := _DEFAULTS[method]) is not None:
        return default
    if not is_number(threshold) or threshold <= 0:
        raise ValueError(f"`threshold` must be a number above 0 for method={method!r}, got {threshold!r}.")
    return float(threshold)
