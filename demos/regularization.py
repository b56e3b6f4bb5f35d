"""A thousand images and a net that learns them by heart: what six ways to hold it back are good for."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from mnist_nets import CLASSES
from mnist_training import Bench, Outcome
from themes import Curve, Theme, main, new_figure
from torch import Tensor, nn
from torch.optim import SGD

from lightning_tuning import DecoupledWeightDecay, L1Penalty, MaxNormConstraint

DESCRIPTION = (
    "A net of 270,000 weights trained on 1,000 images, which it can learn by heart: L1 as a gradient and as a proximal "
    "step, elastic net, decoupled L2, and dropout without and with a bound on the norms of its units."
)

COLOURS = ("#444444", "#E69F00", "#D55E00", "#CC79A7", "#0072B2", "#56B4E9", "#009E73")


@dataclasses.dataclass(frozen=True)
class Way:
    """One run: its callbacks, and how much dropout its net has."""

    make: Callable[[], Sequence[pl.Callback]] = tuple
    dropout: float = 0.0


WAYS: dict[str, Way] = {
    "none": Way(),
    "L1, subgradient": Way(lambda: [L1Penalty(2e-4)]),
    "L1, proximal": Way(lambda: [L1Penalty(2e-4, proximal=True)]),
    "elastic net, proximal": Way(lambda: [L1Penalty(1e-4, l2=1e-3, proximal=True)]),
    "decoupled L2": Way(lambda: [DecoupledWeightDecay(3e-3)]),
    "dropout .5": Way(dropout=0.5),
    "dropout .5, max-norm 2": Way(lambda: [MaxNormConstraint(2.0)], dropout=0.5),
}


def net(dropout: float) -> nn.Sequential:
    """Two hidden layers of 256."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 256), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(256, CLASSES),
    )  # fmt: skip


def tell(bench: Bench) -> Theme:
    """Train the same net each way."""
    runs = {name: _run(bench, way) for name, way in WAYS.items()}
    images = bench.images(1000)
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
    return Theme(
        (
            "held back by",
            "training images",
            "test images",
            "test loss",
            "weights at 0",
            "below .001",
            "norm of weights",
        ),
        rows,
        _figure(runs),
        _verdict(runs),
    )


def _run(bench: Bench, way: Way) -> tuple[Outcome, Curve]:
    curve = Curve()
    outcome = bench.train(
        lambda: net(way.dropout),
        bench.images(1000),
        lambda p: SGD(p, lr=0.05, momentum=0.9),
        epochs=2 if bench.fast else 60,
        batch_size=50,
        callbacks=[*way.make(), curve],
        check_val_every_n_epoch=1 if bench.fast else 3,
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
    edges = torch.linspace(-6, 0.5, 66)
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
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="upper left")
    for axes in (left, right):
        axes.grid(alpha=0.2)
    return figure


def _verdict(runs: dict[str, tuple[Outcome, Curve]]) -> str:
    outcomes = {name: outcome for name, (outcome, _) in runs.items()}
    bare = outcomes["none"]
    most = max(outcomes, key=lambda name: outcomes[name].accuracy)
    least = min(outcomes, key=lambda name: outcomes[name].test_loss)
    sparse = {
        name: float((_weights(outcomes[name]) == 0).float().mean()) for name in ("L1, subgradient", "L1, proximal")
    }
    bound = outcomes["dropout .5, max-norm 2"].accuracy - outcomes["dropout .5"].accuracy
    worse = [name for name, outcome in outcomes.items() if outcome.accuracy < bare.accuracy - 0.002]
    return (
        f"Most accurate: {most}, {outcomes[most].percent} against {bare.percent} for none; least test loss: {least}, "
        f"{outcomes[least].test_loss:.3f} against {bare.test_loss:.3f}. The same L1 leaves "
        f"{100 * sparse['L1, subgradient']:.1f} % of the weights at zero as a gradient and "
        f"{100 * sparse['L1, proximal']:.0f} % as a proximal step. The bound on the norms changes dropout by "
        f"{100 * bound:+.2f} points. " + (f"Worse than nothing: {', '.join(worse)}." if worse else "")
    ).strip()


if __name__ == "__main__":
    sys.exit(main("regularization", DESCRIPTION, tell))
