"""Schedules side by side: one net, one optimizer, one seed; what the learning rate does is all that differs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import lightning.pytorch as pl
from matplotlib.figure import Figure
from mnist_nets import healthy_net
from mnist_training import Bench, Outcome
from themes import Curve, Theme, main, new_figure
from torch.optim import SGD

from lightning_tuning import MomentumSchedule, PlateauLR, ScheduleLR

DESCRIPTION = (
    "A small convolutional net under SGD, at a rate near the highest that it bears: too high for the first steps, and "
    "for the last ones. ScheduleLR, PlateauLR and MomentumSchedule change nothing in the module."
)
LR, EPOCHS, IMAGES, BATCH = 0.15, 4, 8192, 32


@dataclasses.dataclass(frozen=True)
class Run:
    """One way to schedule, and what came of it."""

    name: str
    outcome: Outcome
    curve: Curve

    @property
    def rates(self) -> list[float]:
        """The rates that the updates had, from the second on: ``Curve`` notes what a scheduler left behind it."""
        return self.curve.rates[:-1]

    @property
    def late_loss(self) -> float:
        """Mean training loss of the last sixteenth of the run, which one batch does not sway."""
        last = self.curve.losses[-max(1, len(self.curve.losses) // 16) :]
        return sum(last) / len(last)


def schedules(steps: int, epochs: int = EPOCHS) -> dict[str, list[pl.Callback]]:
    """The callbacks of each run; ``steps`` in each of ``epochs``."""
    return {
        "constant": [],
        "StepLR": [ScheduleLR("StepLR", {"step_size": epochs // 2, "gamma": 0.1}, interval="epoch")],
        "cosine": [ScheduleLR("CosineAnnealingLR")],
        "OneCycleLR": [ScheduleLR("OneCycleLR", {"max_lr": 2 * LR})],
        "warm-up + cosine": [ScheduleLR("CosineAnnealingLR", warmup=0.05)],
        "PlateauLR": [PlateauLR("val_loss", factor=0.2, patience=0, interval="validation")],
        "momentum ramp + cosine": [ScheduleLR("CosineAnnealingLR"), MomentumSchedule(0.5, 0.9, over=steps)],
    }


def tell(bench: Bench) -> Theme:
    """Train all of them."""
    images, epochs = bench.images(512 if bench.fast else IMAGES), 2 if bench.fast else EPOCHS
    steps = len(images) // BATCH
    runs = []
    for name, callbacks in schedules(steps, epochs).items():
        curve = Curve()
        outcome = bench.train(
            healthy_net,
            images,
            lambda p: SGD(p, lr=LR, momentum=0.9),
            epochs=epochs,
            batch_size=BATCH,
            callbacks=[*callbacks, curve],
            val_check_interval=0.5,
        )
        runs.append(Run(name, outcome, curve))
        bench.say(f"{name}: {outcome.percent} of the test images, {'; '.join(outcome.notes) or 'nothing to say'}")
    rows = [
        [
            run.name,
            run.outcome.percent,
            f"{run.outcome.test_loss:.4f}",
            f"{run.late_loss:.4f}",
            f"{run.rates[-1]:.1e}",
            f"{run.outcome.seconds:.1f}",
        ]
        for run in runs
    ]
    columns = ["schedule", "test accuracy", "test loss", "late train loss", "last rate", "seconds"]
    return Theme(columns, rows, _figure(runs, epochs), _verdict(runs))


def _verdict(runs: Sequence[Run]) -> str:
    constant, *others = runs
    by_loss = sorted(others, key=lambda run: run.outcome.test_loss)
    better = [run.name for run in others if run.outcome.test_loss < constant.outcome.test_loss]
    share = f"{len(better)} of {len(others)} schedules end with a lower test loss than the constant rate"
    best = by_loss[0]
    ratio = constant.outcome.test_loss / best.outcome.test_loss
    best_of_all = (
        f"{share}; {best.name} has the lowest, {best.outcome.test_loss:.4f} against {constant.outcome.test_loss:.4f} "
        f"({ratio:.1f} times less), {best.outcome.percent} right against {constant.outcome.percent}."
    )
    lines = [best_of_all]
    worse = [run.name for run in others if run.name not in better]
    if worse:
        lines.append(f"Of no help here: {', '.join(worse)}.")
    plain, warm, ramped = (_named(runs, name) for name in ("cosine", "warm-up", "momentum"))
    for run, what in ((warm, "the warm-up"), (ramped, "the ramp of momentum")):
        gain = plain.outcome.test_loss - run.outcome.test_loss
        helped = "lowers" if gain > 0 else "raises"
        lines.append(f"Before the same cosine, {what} {helped} the test loss by {abs(gain):.4f}.")
    return " ".join(lines)


def _named(runs: Sequence[Run], start: str) -> Run:
    return next(run for run in runs if run.name.startswith(start))


def _figure(runs: Sequence[Run], epochs: int) -> Figure:
    figure = new_figure(11, 7)
    rates, losses = figure.subplots(2, 1, sharex=True)
    for place, run in enumerate(runs):
        batches = len(run.curve.losses)
        at = [(step + 1) / batches * epochs for step in range(batches)]
        style = {"color": f"C{place}", "linestyle": "--" if place in (0, len(runs) - 1) else "-", "linewidth": 1.6}
        rates.plot(at[1:], run.rates, label=run.name, **style)
        window = max(1, batches // 16)
        losses.plot(at, run.curve.smooth(window), label=f"{run.name}: {run.outcome.percent}", **style)
    rates.set(ylabel="learning rate", yscale="log", ylim=(LR / 2000, LR * 4), title="What the rate does")
    losses.set(
        xlabel="epoch",
        ylabel="training loss (moving mean)",
        yscale="log",
        ylim=(None, 1.0),
        title="What becomes of the loss; in the legend: right on the test images",
    )
    for axes in (rates, losses):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


if __name__ == "__main__":
    sys.exit(main("schedules", DESCRIPTION, tell))
