"""The picture of a learning rate range test."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from lightning_tuning.treatments._lr_result import LRRangeResult

__all__ = ["check_can_plot", "plot_range_test"]


def check_can_plot() -> None:
    """Say so before the run if there is nothing to plot with.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "LRRangeTest(plot=...) draws with matplotlib, which is not installed: `pip install matplotlib`, or leave "
            "`plot` out."
        )


def plot_range_test(result: LRRangeResult, path: Path) -> None:
    """Write the losses over the rates, the interval and the suggestion into a picture, PNG by default."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure: Any = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    finite = [loss for loss in result.losses if math.isfinite(loss)]
    axes.plot(result.rates, result.losses, color="0.6", marker=".", linewidth=1, label="loss of a step")
    found = result.suggestion
    if found.low is not None and found.high is not None:
        axes.axvspan(found.low, found.high, color="tab:green", alpha=0.15, label="the loss falls")
        for name, style in (("valley", ":"), ("steepest", "--"), ("minimum_over_ten", "-.")):
            rate = getattr(found, name)
            label = f"{name.replace('_over_ten', ' / 10')}: {rate:.2g}"
            axes.axvline(rate, color="tab:blue", linestyle=style, linewidth=1, label=label)
    if result.suggested is not None:
        axes.axvline(result.suggested, color="tab:red", linewidth=2, label=f"suggested: {result.suggested:.2g}")
    if len(finite) > 1:
        start = sorted(finite[: max(1, len(finite) // 5)])
        top, bottom = start[len(start) // 2], min(finite)
        room = max(top - bottom, 1e-9 * abs(top), 1e-12)
        axes.set_ylim(bottom - 0.1 * room, top + 0.6 * room)  # where it runs away is of no interest
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title(result.reason or "learning rate range test")
    axes.legend(fontsize="small", loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
