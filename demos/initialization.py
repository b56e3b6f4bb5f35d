"""Where a net starts: weights of deep nets, residual branches that are switched off, biases that know a prior.

Three comparisons on MNIST, each with the same seed, data and optimizer: a plain ReLU net of sixteen layers, a residual
net without normalization, and classes of which each is half as frequent as the one before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.axes import Axes
from mnist_data import Split
from mnist_nets import CLASSES, relu_net
from mnist_training import Bench
from themes import Curve, Theme, main, new_figure
from torch import Tensor, nn
from torch.optim import SGD

from lightning_tuning import WeightInitCallback

DESCRIPTION = (
    "Initial weights: PyTorch's own, xavier, he by activation, orthogonal and LSUV in a plain net of 16 layers; "
    "branches switched off and Fixup in a residual net without normalization; an output bias from shares of classes."
)
DEPTH, WIDTH, BLOCKS = 16, 100, 24
EARLY = 50
RATE, RARE_RATE = 0.05, 0.005

PLAIN: dict[str, Sequence[Any]] = {
    "torch's default": (),
    "xavier": ("xavier",),
    "he (auto)": ("auto",),
    "orthogonal": ("orthogonal",),
    "lsuv": ("lsuv",),
}
RESIDUAL: Sequence[tuple[Any, float]] = (
    ("keep", 0.01),
    ("zero", 0.01),
    ("fixup", 0.01),
    ("zero", RATE),
    ("fixup", RATE),
)


class Block(nn.Module):
    """``x + W2 relu(W1 x)``: nothing is normalized, so the sum grows from block to block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.second(torch.relu(self.first(x)))


class Depths(pl.Callback):
    """How far apart the images are behind each layer of a kind, before the first update.

    Args:
        kind: of layer.

    Attributes:
        spread: standard deviation between images, averaged over units; one for each layer.
    """

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind
        self.spread: list[float] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Once, on the first batch; the treatment, attached before, has done its work."""
        if self.spread or not isinstance(pl_module.net, nn.Module):
            return
        layers = [layer for layer in pl_module.net.modules() if isinstance(layer, self.kind)]
        handles = [
            layer.register_forward_hook(lambda _, __, out: self.spread.append(float(out.std(0).mean())))
            for layer in layers
        ]
        with torch.no_grad():
            pl_module.net(batch[0])
        for handle in handles:
            handle.remove()


def residual_net() -> nn.Sequential:
    """A linear layer, the blocks, a linear layer."""
    blocks = (Block(WIDTH) for _ in range(BLOCKS))
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, WIDTH), nn.ReLU(), *blocks, nn.Linear(WIDTH, CLASSES))


def halved(split: Split) -> Split:
    """Of each class half as many images as of the one before; at least two."""
    largest = min(int((split.labels == 0).sum()), len(split) // 10)
    keep = [(split.labels == label).nonzero().flatten()[: max(2, largest >> label)] for label in range(CLASSES)]
    chosen = torch.cat(keep).sort().values
    return Split(split.images[chosen], split.labels[chosen])


class Run:
    """One run and its figures."""

    def __init__(self, bench: Bench, name: str, build: Callable[[], nn.Module], train: Split, **settings: Any) -> None:
        self.name, self.curve, self.depths = name, Curve(), Depths(settings.pop("kind", nn.ReLU))
        treatment, rate = settings.pop("treatment", None), settings.pop("rate", RATE)
        callbacks = [*([treatment] if treatment is not None else []), self.depths, self.curve]
        outcome = bench.train(build, train, lambda p: SGD(p, lr=rate), callbacks=callbacks, **settings)
        self.accuracy = outcome.percent
        self.notes = outcome.notes
        early = self.curve.smooth(10)
        self.first, self.early, self.end = self.curve.losses[0], early[:EARLY][-1], self.curve.smooth(50)[-1]

    def row(self) -> list[str]:
        """For the table."""
        return [self.name, *(f"{loss:.4g}" for loss in (self.first, self.early, self.end)), self.accuracy]


def tell(bench: Bench) -> Theme:
    """Train all of them."""
    images = bench.images(20_000)
    plain = [
        Run(
            bench,
            name,
            lambda: relu_net(DEPTH, WIDTH),
            images,
            treatment=WeightInitCallback(*scheme) if scheme else None,
        )
        for name, scheme in PLAIN.items()
    ]
    residual = [
        Run(
            bench,
            f"residual {mode}, lr {rate}",
            residual_net,
            images,
            kind=Block,
            rate=rate,
            treatment=WeightInitCallback(residual=mode),
        )
        for mode, rate in RESIDUAL
    ]
    few = halved(images)
    rare = [
        Run(
            bench,
            f"rare classes, {mode}",
            lambda: relu_net(2, 128),
            few,
            rate=RARE_RATE,
            batch_size=256,
            limit_val_batches=0,
            epochs=max(1, math.ceil(2 * EARLY / max(1, len(few) // 256))),
            treatment=WeightInitCallback(head_bias=mode),
        )
        for mode in ("keep", "prior")
    ]
    rows = [run.row() for run in (*plain, *residual, *rare)]
    columns = ("run", "first loss", f"step {EARLY}", "end", "test accuracy")
    return Theme(columns, rows, _picture(plain, residual, rare), _verdict(plain, residual, rare, few))


def _picture(plain: Sequence[Run], residual: Sequence[Run], rare: Sequence[Run]) -> Any:
    figure = new_figure(12, 8)
    (spread, losses), (deep, early) = figure.subplots(2, 2)
    for run in plain:
        spread.plot(range(1, len(run.depths.spread) + 1), run.depths.spread, marker="o", markersize=3, label=run.name)
    for run in residual[:3]:
        values = run.depths.spread
        spread.plot(range(1, len(values) + 1), values, linestyle="--", label=f"{run.name.split(',')[0]} (blocks)")
    _label(spread, f"Before the first step: what is left of the image\n{DEPTH} plain layers, {BLOCKS} residual blocks")
    spread.set(xlabel="hidden layer or block", ylabel="std between images", yscale="log")
    for axes, runs, title in (
        (losses, plain, f"Plain ReLU net, {DEPTH} layers, SGD(lr={RATE})"),
        (deep, residual, f"Residual net, {BLOCKS} blocks, no normalization, SGD"),
    ):
        for run in runs:
            axes.plot(run.curve.smooth(), label=_ending(run))
        axes.axhline(math.log(CLASSES), color="grey", linewidth=0.8, linestyle=":", label="guessing, ln 10")
        axes.set(xlabel="step", ylabel="training loss (mean of 20 steps)", ylim=(0, 3.2))
        _label(axes, title)
    for run in rare:
        early.plot(run.curve.losses[: 2 * EARLY], label=run.name)
    early.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    _label(early, f"Each class half as frequent as the one before, SGD(lr={RARE_RATE})")
    return figure


def _ending(run: Run) -> str:
    return run.name if math.isfinite(run.end) else f"{run.name}: diverges"


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _verdict(plain: Sequence[Run], residual: Sequence[Run], rare: Sequence[Run], few: Split) -> str:
    def best(runs: Sequence[Run]) -> Run:
        return min(runs, key=lambda run: run.end if math.isfinite(run.end) else math.inf)

    default, best_plain, best_residual = plain[0], best(plain), best(residual)
    keep, prior = rare
    shares = torch.bincount(few.labels, minlength=CLASSES) / len(few)
    entropy = float(-(shares * shares.clamp_min(1e-9).log()).sum())
    learnt = [run.name for run in plain if math.isfinite(run.end) and run.end < 0.8 * math.log(CLASSES)]
    grown = residual[0].depths.spread[-1] / residual[0].depths.spread[0]
    of_plain = (
        f"Plain: of {len(plain)} initialisations these learn within the epoch: {', '.join(learnt) or 'none'}. The loss "
        f"ends at {best_plain.end:.3g} with {best_plain.name}, at {default.end:.3g} with torch's default (guessing: "
        f"{math.log(CLASSES):.3g})."
    )
    fallen = [run.name for run in residual if not math.isfinite(run.end)]
    of_residual = (
        f"Residual: with every branch on, the signal grows {grown:.2g}-fold over {BLOCKS} blocks and the loss begins "
        f"at {residual[0].first:.3g}; with branches switched off at {residual[1].first:.3g}, with Fixup at "
        f"{residual[2].first:.3g}. Lowest at the end: {best_residual.name} ({best_residual.accuracy}). These diverge: "
        f"{'; '.join(fallen) or 'none'}."
    )
    is_ahead = prior.early < 0.95 * keep.early
    of_rare = (
        f"Rare classes: the best constant answer has a loss of {entropy:.3g}. The first loss is {keep.first:.3g} with "
        f"a bias of 0 and {prior.first:.3g} with the prior, after {EARLY} steps {keep.early:.3g} and "
        f"{prior.early:.3g}: the prior is {'still ahead' if is_ahead else 'ahead no more'}."
    )
    return f"{of_plain}\n{of_residual}\n{of_rare}"


if __name__ == "__main__":
    sys.exit(main("initialization", DESCRIPTION, tell))
