"""A thousand images, some with a wrong label, learned by heart: what six ways to hold a net back are good for."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from mnist_data import Split
from mnist_nets import CLASSES
from mnist_training import Bench, Outcome
from themes import Curve, Theme, main, new_figure
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_tuning import DecoupledWeightDecay, L1Penalty, MaxNormConstraint

DESCRIPTION = (
    "A net of 270,000 weights trained on 1,000 images, one in five with a random label, all of which it can learn by "
    "heart. Held back by L1 as a gradient and as a proximal step, elastic net, decoupled L2, and dropout without and "
    "with a bound on the norms of its units. (Momentum of .9 takes a gradient ten times, a proximal step once: 5e-4 of "
    "the one is 5e-3 of the other.)"
)
WRONG = 0.2

COLOURS = ("#444444", "#E69F00", "#D55E00", "#CC79A7", "#0072B2", "#56B4E9", "#009E73")


@dataclasses.dataclass(frozen=True)
class Way:
    """One run: its callbacks, and how much dropout its net has."""

    make: Callable[[], Sequence[pl.Callback]] = tuple
    dropout: float = 0.0


WAYS: dict[str, Way] = {
    "none": Way(),
    "L1 gradient": Way(lambda: [L1Penalty(5e-4)]),
    "L1 proximal": Way(lambda: [L1Penalty(5e-3, proximal=True)]),
    "elastic net": Way(lambda: [L1Penalty(1e-2, l2=0.1, proximal=True)]),
    "L2 .2": Way(lambda: [DecoupledWeightDecay(0.2)]),
    "dropout": Way(dropout=0.5),
    "+ max-norm 1": Way(lambda: [MaxNormConstraint(1.0)], dropout=0.5),
}


def net(dropout: float) -> nn.Sequential:
    """Two hidden layers of 256."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 256), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(256, CLASSES),
    )  # fmt: skip


def tell(bench: Bench) -> Theme:
    """Train the same net each way."""
    images = _with_wrong_labels(bench.images(1000), bench.seed)
    runs = {name: _run(bench, way, images) for name, way in WAYS.items()}
    rows = []
    for name, (outcome, _) in runs.items():
        weights = _weights(outcome)
        trained = _accuracy(outcome, images.images, images.labels)
        zeros, near = float((weights == 0).float().mean()), float((weights.abs() < 1e-3).float().mean())
        rows.append(
            (
                name,
                f"{100 * trained:.1f} %",
                outcome.percent,
                f"{outcome.test_loss:.3f}",
                f"{100 * zeros:.1f} %",
                f"{100 * near:.1f} %",
                f"{float(weights.norm()):.1f}",
            )
        )
    columns = ("held back by", "train acc", "test acc", "test loss", "zeros", "< .001", "norm")
    return Theme(columns, rows, _figure(runs), _verdict(runs))


def _with_wrong_labels(images: Split, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(images), generator=generator) < WRONG
    return Split(
        images.images, torch.where(wrong, torch.randint(CLASSES, wrong.shape, generator=generator), images.labels)
    )


def _run(bench: Bench, way: Way, images: Split) -> tuple[Outcome, Curve]:
    curve = Curve()
    outcome = bench.train(
        lambda: net(way.dropout),
        images,
        lambda p: SGD(p, lr=0.05, momentum=0.9),
        epochs=2 if bench.fast else 40,
        batch_size=50,
        schedule=CosineAnnealingLR,
        callbacks=[*way.make(), curve],
        check_val_every_n_epoch=1 if bench.fast else 2,
    )
    return outcome, curve


def _weights(outcome: Outcome) -> Tensor:
    parameters = [p.detach().flatten() for name, p in outcome.module.net.named_parameters() if name.endswith("weight")]
    return torch.cat(parameters)


def _accuracy(outcome: Outcome, images: Tensor, labels: Tensor) -> float:
    outcome.module.eval()
    with torch.no_grad():
        return float((outcome.module(images).argmax(-1) == labels).float().mean())


def _figure(runs: dict[str, tuple[Outcome, Curve]]) -> Any:
    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    edges = torch.linspace(-8, 0.5, 86)
    for (name, (outcome, curve)), colour in zip(runs.items(), COLOURS, strict=True):
        share = len(curve.losses) / max(1, len(curve.validations))
        steps = [share * (place + 1) for place in range(len(curve.validations))]
        left.plot(steps, [one["val_loss"] for one in curve.validations], color=colour, label=name, linewidth=1.5)
        weights = _weights(outcome)
        sizes = weights[weights != 0].abs().log10()
        counts = torch.histogram(sizes, edges).hist / len(weights)
        zeros = float((weights == 0).float().mean())
        label = f"{name} ({100 * zeros:.0f} % at 0)" if zeros > 0.005 else name
        right.plot(edges[:-1], 100 * counts, color=colour, label=label, linewidth=1.5)
    left.set(xlabel="update", ylabel="validation loss", title="What over-fitting costs")
    right.set(xlabel="log10 of a weight's size", ylabel="% of all weights", title="Weights at the end, without zeros")
    right.legend(fontsize=8, loc="upper left")
    for axes in (left, right):
        axes.grid(alpha=0.2)
    return figure


def _verdict(runs: dict[str, tuple[Outcome, Curve]]) -> str:
    outcomes = {name: outcome for name, (outcome, _) in runs.items()}
    gains = {name: 100 * (one.accuracy - outcomes["none"].accuracy) for name, one in outcomes.items() if name != "none"}
    helps = [f"{name} {gain:+.1f}" for name, gain in gains.items() if gain > 0.5]
    others = [f"{name} {gain:+.1f}" for name, gain in gains.items() if gain <= 0.5]
    zeros = {name: 100 * float((_weights(one) == 0).float().mean()) for name, one in outcomes.items()}
    return (
        f"Points of test accuracy against none: {', '.join(helps) or 'no gain from any'}"
        f"{'; no gain from ' + ', '.join(others) if others else ''}. What L1 is for is sparsity: the proximal step "
        f"leaves {zeros['L1 proximal']:.0f} % of the weights at exactly zero, the same penalty as a gradient "
        f"{zeros['L1 gradient']:.1f} %."
    )


if __name__ == "__main__":
    sys.exit(main("regularization", DESCRIPTION, tell))
