"""Dropout before batch norm and what helps; then norms for batches of four. ``python demos/batchnorm_dropout.py``."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from mnist_nets import narrow_dropout_net
from mnist_training import Bench, Outcome
from themes import Curve, Theme, main, new_figure
from torch import nn
from torch.optim import AdamW

from lightning_tuning import ConvertBatchNorm, DropoutBNConflictWarning, DropoutSchedule, RecalibrateBatchNorm

DESCRIPTION = (
    "Narrow convolution blocks (8 channels) with dropout p=.5 in front of the next batch norm: it keeps variances of "
    "training, dropout on, and is tested with dropout off. Below, the same blocks without dropout at 4 images a batch, "
    "where the statistics of a batch are noise. All names are callbacks of the library or their arguments."
)

EVERY = 4
"""Validations in an epoch."""

Make = Callable[[], Sequence[pl.Callback]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One line of the table."""

    name: str
    outcome: Outcome
    curve: Curve


def blocks(p: float) -> Callable[[], nn.Module]:
    """Four of them, a dropout between each two; behind the last there is no batch norm to be shifted."""

    def build() -> nn.Module:
        net = narrow_dropout_net(4, 8, p)
        net[15] = nn.Identity()
        return net

    return build


def tell(bench: Bench) -> Theme:
    """Train all of them."""
    shifted = _shifted(bench)
    small = _small_batches(bench)
    return Theme(
        ("run", "test acc", "test loss", "val acc", "seconds"),
        [_row(run) for run in (*shifted, *small)],
        _draw(shifted, small),
        _verdict(shifted, small, len(bench.digits.test)),
    )


def _shifted(bench: Bench) -> list[Run]:
    runs: dict[str, tuple[float, Make]] = {
        "dropout before BN": (0.5, tuple),
        "no dropout": (0.0, tuple),
        "on_conflict='move'": (0.5, lambda: [DropoutBNConflictWarning("move", severity="info")]),
        "on_conflict='uout'": (0.5, lambda: [DropoutBNConflictWarning("uout", severity="info")]),
        "RecalibrateBatchNorm": (0.5, lambda: [RecalibrateBatchNorm()]),
        "DropoutSchedule to 0": (0.5, lambda: [DropoutSchedule(None, 0.0, over=0.5)]),
    }
    images = bench.images(20_000)
    return [
        _train(bench, name, blocks(p), make(), images=images, lr=2e-3, batch_size=64)
        for name, (p, make) in runs.items()
    ]


def _small_batches(bench: Bench) -> list[Run]:
    images = bench.images(8_000).first(400 if bench.fast else 8_000)
    steps = len(images) // 4
    ramp = {"r_steps": (steps // 10, steps // 2), "d_steps": (steps // 10, steps // 2)}
    runs: dict[str, Make] = {
        "BN, batches of 4": tuple,
        "Convert to group": lambda: [ConvertBatchNorm("group")],
        "Convert to renorm": lambda: [ConvertBatchNorm("renorm", **ramp)],
        "Recalibrate, 256": lambda: [RecalibrateBatchNorm(256)],
    }
    return [
        _train(bench, name, blocks(0.0), make(), images=images, lr=2e-3, batch_size=4) for name, make in runs.items()
    ]


def _train(
    bench: Bench, name: str, build: Callable[[], nn.Module], callbacks: Sequence[pl.Callback], **arguments: Any
) -> Run:
    curve, lr = Curve(), arguments.pop("lr")
    images = arguments.pop("images")
    outcome = bench.train(
        build,
        images,
        lambda parameters: AdamW(parameters, lr=lr),
        callbacks=[*callbacks, curve],
        val_check_interval=1 / EVERY,
        **arguments,
    )
    bench.say(f"{name}: {outcome.percent}")
    return Run(name, outcome, curve)


def _row(run: Run) -> tuple[str, ...]:
    outcome, validation = run.outcome, run.curve.validations[-1]
    return (
        run.name,
        outcome.percent,
        f"{outcome.test_loss:.3f}",
        f"{100 * validation['val_acc']:.2f} %",
        f"{outcome.seconds:.1f}",
    )


def _draw(shifted: Sequence[Run], small: Sequence[Run]) -> Any:
    figure = new_figure(12.0, 4.6)
    panels = figure.subplots(1, 2)
    titles = "dropout p=.5 before batch norm, batches of 64", "no dropout, batches of 4"
    for axes, runs, title in zip(panels, (shifted, small), titles, strict=True):
        for index, run in enumerate(runs):
            accuracies = [100 * validation["val_acc"] for validation in run.curve.validations]
            steps = [len(run.curve.losses) * (i + 1) / len(accuracies) for i in range(len(accuracies))]
            style = "--" if index == 0 else "-"
            color = "black" if index == 0 else f"C{index - 1}"
            axes.plot(steps, accuracies, style, color=color, marker="o", markersize=4, label=run.name)
        axes.set(title=title, xlabel="training step", ylabel="validation accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return figure


def _verdict(shifted: Sequence[Run], small: Sequence[Run], images: int) -> str:
    return f"{_compare(shifted, images)} {_compare(small, images)}"


def _compare(runs: Sequence[Run], images: int) -> str:
    """Gains in points, and which of them two samples of as many test images might show by chance."""
    first = runs[0].outcome
    gains = {run.name: 100 * (run.outcome.accuracy - first.accuracy) for run in runs[1:]}
    told = ", ".join(f"{name} {gain:+.2f}" for name, gain in sorted(gains.items(), key=lambda item: -item[1]))
    chance = 200 * math.sqrt(2 * first.accuracy * (1 - first.accuracy) / images)
    idle = [name for name, gain in gains.items() if gain < chance]
    no_help = f"; no more than chance explains ({chance:.2f}): {', '.join(idle)}" if idle else ""
    return f"Points of test accuracy over {runs[0].name} ({first.percent}): {told}{no_help}."


if __name__ == "__main__":
    sys.exit(main("batchnorm_dropout", DESCRIPTION, tell))
