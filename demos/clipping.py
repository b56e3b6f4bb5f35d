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
    "A ReLU RNN reads each image row by row, at a learning rate that it bears (.05) and at one that it does not (.1). "
    "Clipped at a constant that somebody has to know, and at bounds that come from the run itself."
)

RATES = (0.05, 0.1)
COLOURS = {"none": "#999999", "norm 1": "#444444", "percentile 90": "#0072B2", "percentile 10": "#56B4E9"}
COLOURS |= {"zscore 2.5": "#D55E00", "agc .01": "#009E73"}

Run = tuple[Outcome, Curve, "Norms"]


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
    """Train the same net each way, at both rates."""
    runs = {(name, lr): _run(bench, guard, lr) for lr in RATES for name, guard in ways().items()}
    rows = []
    for name in ways():
        cells = [name]
        for lr in RATES:
            outcome, _, norms = runs[name, lr]
            cells += [outcome.percent, f"{100 * norms.clipped:.0f} %", _final(name, norms)]
        rows.append(cells)
    columns = [f"{title} {lr:g}" for lr in RATES for title in ("acc", "clip", "bound")]
    figure = _figure({name: runs[name, RATES[1]][1:] for name in ways()})
    return Theme(("clipped at", *columns), rows, figure, _verdict(runs))


def _run(bench: Bench, guard: AdaptiveClipGuard | None, lr: float) -> Run:
    curve, norms = Curve(), Norms()
    outcome = bench.train(
        RowReader,
        bench.images(12_000),
        lambda p: SGD(p, lr=lr, momentum=0.9),
        epochs=2,
        schedule=lambda o, steps: OneCycleLR(o, lr, total_steps=steps, div_factor=10, cycle_momentum=False),
        callbacks=[*([guard] if guard is not None else []), norms, curve],
        limit_val_batches=0,
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
        if name == "percentile 90":
            right.plot(norms.before, ".", color="#999999", markersize=3, label=f"{name}: before clipping")
            right.plot(norms.after, color=COLOURS[name], linewidth=0.9, label=f"{name}: after clipping")
        elif name in ("percentile 10", "norm 1"):
            right.plot(norms.after, color=COLOURS[name], linewidth=0.9, label=f"{name}: after clipping")
    left.set(xlabel="update", ylabel="training loss (mean of 20)", title=f"Learning rate {RATES[1]:g}", ylim=(0.3, 3))
    right.set(xlabel="update", ylabel="gradient norm", title="What the optimizer gets", yscale="log", ylim=(0.15, 60))
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="upper right")
    for axes in (left, right):
        axes.grid(alpha=0.2)
    return figure


def _verdict(runs: dict[tuple[str, float], Run]) -> str:
    said = []
    for lr in RATES:
        accuracies = {name: 100 * runs[name, lr][0].accuracy for name in ways()}
        order = sorted(accuracies, key=lambda name: -accuracies[name])
        said.append(
            f"At {lr:g}: percentile 90 {accuracies['percentile 90'] - accuracies['none']:+.1f} points against no "
            f"clipping, percentile 10 {accuracies['percentile 10'] - accuracies['none']:+.1f}; best {order[0]}, worst "
            f"{order[-1]}."
        )
    shares = [100 * runs[f"percentile {p}", RATES[0]][2].clipped for p in (90, 10)]
    return (
        f"{' '.join(said)} Percentile 90 clips {shares[0]:.0f} % of the updates, percentile 10 (AutoClip's own) "
        f"{shares[1]:.0f} %: where nearly all are clipped, it is the bound that sets the length of an update, as "
        "another learning rate would. One seed, one net: differences of a point or two are noise."
    )


if __name__ == "__main__":
    sys.exit(main("clipping", DESCRIPTION, tell))
