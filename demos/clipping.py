"""What should the clip be? A recurrent net at a rate that it survives only clipped, and five ways to find the bound."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from mnist_nets import RowReader
from mnist_training import Bench, Outcome
from themes import Curve, Theme, main, new_figure
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from lightning_tuning import AdaptiveClipGuard
from lightning_tuning.measure import Meter

DESCRIPTION = (
    "A ReLU RNN reads each image row by row, at a rate that is warmed up to .2: unclipped it explodes. Clipped "
    "at a constant that somebody has to know, and at bounds that come from the run itself."
)

COLOURS = {"none": "#999999", "norm 1": "#444444", "percentile 90": "#0072B2", "percentile 10": "#56B4E9"}
COLOURS |= {"zscore 2.5": "#D55E00", "agc .01": "#009E73"}


def ways() -> dict[str, AdaptiveClipGuard | None]:
    """Each compared bound, by its name."""
    return {
        "none": None,
        "norm 1": AdaptiveClipGuard("norm", threshold=1.0),
        "percentile 90": AdaptiveClipGuard(),
        "percentile 10": AdaptiveClipGuard(percentile=10.0),
        "zscore 2.5": AdaptiveClipGuard("zscore"),
        "agc .01": AdaptiveClipGuard("agc"),
    }


class Norms(pl.Callback):
    """The gradient norm of each update before and after clipping; stands behind the guard.

    Attributes:
        before: as the meter has it, or as it is where nobody clips.
        after: what the optimizer gets.
    """

    def __init__(self) -> None:
        self.before: list[float] = []
        self.after: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Note both."""
        after = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        self.after.append(float(after))
        self.before.append(float(Meter.of(trainer).gradient_norms(optimizer, self).total))

    @property
    def clipped(self) -> float:
        """The share of updates whose norm came out smaller."""
        pairs = [(b, a) for b, a in zip(self.before, self.after, strict=True) if math.isfinite(b) and b > 0]
        return sum(after < 0.9999 * before for before, after in pairs) / max(1, len(pairs))


def tell(bench: Bench) -> Theme:
    """Train the same net each way."""
    runs = {name: _run(bench, guard) for name, guard in ways().items()}
    rows = []
    for name, (outcome, curve, norms) in runs.items():
        finite = [norm for norm in norms.before if math.isfinite(norm)]
        rows.append(
            (
                name,
                outcome.percent,
                f"{curve.smooth()[-1]:.3f}",
                f"{100 * norms.clipped:.0f} %",
                f"{max(finite):.3g}",
                f"{max((n for n in norms.after if math.isfinite(n)), default=math.nan):.3g}",
                _final(name, norms),
            )
        )
    return Theme(
        (
            "clipped at",
            "test accuracy",
            "last training loss",
            "updates clipped",
            "largest norm",
            "after",
            "bound at end",
        ),
        rows,
        _figure({name: (curve, norms) for name, (_, curve, norms) in runs.items()}),
        _verdict(runs),
    )


def _run(bench: Bench, guard: AdaptiveClipGuard | None) -> tuple[Outcome, Curve, Norms]:
    curve, norms = Curve(), Norms()
    outcome = bench.train(
        RowReader,
        bench.images(12_000),
        lambda p: SGD(p, lr=0.2, momentum=0.9),
        epochs=2,
        schedule=lambda o, steps: OneCycleLR(o, 0.2, total_steps=steps, div_factor=10, cycle_momentum=False),
        callbacks=[*([guard] if guard is not None else []), norms, curve],
    )
    return outcome, curve, norms


def _final(name: str, norms: Norms) -> str:
    """The norm to which the last clipped update came down; of units there is no single one."""
    if name == "none":
        return "-"
    if name.startswith("agc"):
        return "per unit"
    clipped = [a for b, a in zip(norms.before, norms.after, strict=True) if math.isfinite(b) and a < 0.9999 * b]
    return f"{clipped[-1]:.3g}" if clipped else "-"


def _figure(runs: dict[str, tuple[Curve, Norms]]) -> Any:
    figure = new_figure(11.0, 4.2)
    left, right = figure.subplots(1, 2)
    for name, (curve, norms) in runs.items():
        left.plot(curve.smooth(), color=COLOURS[name], label=name, linewidth=1.4)
        if name in ("none", "percentile 90", "zscore 2.5"):
            right.plot(norms.before, ".", color=COLOURS[name], markersize=2, alpha=0.5)
            right.plot(norms.after, color=COLOURS[name], linewidth=0.9, label=f"{name}: after clipping")
    left.set(xlabel="update", ylabel="training loss (mean of 20)", title="Loss", ylim=(0, 3))
    right.set(xlabel="update", ylabel="gradient norm", title="Norms: before clipping (dots) and after", yscale="log")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.2)
    return figure


def _verdict(runs: dict[str, tuple[Outcome, Curve, Norms]]) -> str:
    accuracies = {name: outcome.accuracy for name, (outcome, _, _) in runs.items()}
    best = max(accuracies, key=lambda name: accuracies[name])
    shares = {name: norms.clipped for name, (_, _, norms) in runs.items()}
    ninety, ten = (f"{100 * shares[f'percentile {p}']:.0f} %" for p in (90, 10))
    gain = 100 * (accuracies["percentile 90"] - accuracies["none"])
    against = 100 * (accuracies["percentile 90"] - accuracies["norm 1"])
    return (
        f"Percentile 90 clips {ninety} of the updates and percentile 10 (AutoClip's) {ten}. Without knowing a number, "
        f"percentile 90 ends {gain:+.1f} points from no clipping and {against:+.1f} from a constant of 1. Best here: "
        f"{best}, {100 * accuracies[best]:.1f} %. One seed, one net: differences below a point or so are noise."
    )


if __name__ == "__main__":
    sys.exit(main("clipping", DESCRIPTION, tell))
