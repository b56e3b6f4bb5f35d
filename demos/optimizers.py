"""Seven optimizers on one net, at torch's default rate, at a sensible one, and at the one that LRRangeTest finds.

python demos/optimizers.py
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from mnist_data import Split
from mnist_nets import relu_net
from mnist_training import Bench
from themes import Curve, Theme, main, new_figure

from lightning_tuning import LRRangeTest
from lightning_tuning.findings.optimizers import OPTIMIZERS, OptimizerFacts

DESCRIPTION = "Seven optimizers at torch's default learning rate, at a sensible one and at LRRangeTest's, on MNIST."
KINDS = ("torch's", "sensible", "swept")

SENSIBLE = {
    "SGD": 0.3,
    "SGD+momentum": 0.05,
    "Adagrad": 0.02,
    "Adadelta": 1.0,
    "RMSprop": 5e-4,
    "Adam": 1e-3,
    "AdamW": 1e-3,
}
"""Of this net; where it is torch's own, one run is enough."""

IMAGES = 30_000


class Watch(pl.Callback):
    """Memory of the optimizer's state, and the time of its steps."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._start, self._spent = 0.0, []

    @property
    def milliseconds(self) -> float:
        """Median of the updates: other programs run on this machine too."""
        return 1000 * sorted(self._spent)[len(self._spent) // 2]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the time at which an update is done."""
        self._hook = trainer.optimizers[0].register_step_post_hook(
            lambda *_: self._spent.append(time.perf_counter() - self._start)
        )

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """The gradients are there: Lightning runs the closure inside of ``step``, and from here on it is the update."""
        self._start = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Weigh the state."""
        self._hook.remove()
        state = trainer.optimizers[0].state.values()
        tensors = [value for values in state for value in values.values() if isinstance(value, torch.Tensor)]
        self.megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def tell(bench: Bench) -> Theme:
    """Train with each optimizer at each of its rates."""
    images = bench.images(IMAGES)
    rows, runs = [], {}
    for name, facts in OPTIMIZERS.items():
        for kind, rate in zip(KINDS, (facts.default_lr, SENSIBLE[name], facts.default_lr), strict=True):
            if kind == "sensible" and rate == facts.default_lr:
                runs[name, kind] = runs[name, "torch's"]
                continue
            run = _run(bench, images, facts, rate, is_swept=kind == "swept")
            runs[name, kind] = run
            is_both = kind == "torch's" and rate == SENSIBLE[name]
            rows.append((name, f"{run.rate:.2g}", "both" if is_both else kind, *run.cells))
    columns = ("optimizer", "lr", "whose", "accuracy", "test loss", "state MB", "ms/step")
    return Theme(columns, rows, _picture(runs), _verdict(runs))


@dataclasses.dataclass(frozen=True)
class Run:
    """What became of one."""

    rate: float
    accuracy: float
    losses: list[float]
    cells: tuple[str, ...]


def _run(bench: Bench, images: Split, facts: OptimizerFacts, rate: float, *, is_swept: bool) -> Run:
    curve, watch = Curve(), Watch()

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, facts.torch_class)(parameters, lr=rate, **facts.arguments)

    callbacks = [curve, watch, *([LRRangeTest()] if is_swept else [])]
    outcome = bench.train(lambda: relu_net(4, 256), images, optimizer, callbacks=callbacks, limit_val_batches=0)
    cells = (outcome.percent, f"{outcome.test_loss:.3f}", f"{watch.megabytes:.2f}", f"{watch.milliseconds:.2f}")
    return Run(curve.rates[-1], outcome.accuracy, curve.smooth(30), cells)


def _verdict(runs: dict[tuple[str, str], Run]) -> str:
    scores = {kind: {name: 100 * runs[name, kind].accuracy for name in OPTIMIZERS} for kind in KINDS}
    spread = {kind: max(found.values()) - min(found.values()) for kind, found in scores.items()}
    best = {kind: max(found, key=found.__getitem__) for kind, found in scores.items()}
    behind = {name: scores["swept"][name] - scores["sensible"][name] for name in OPTIMIZERS}
    least = min(behind, key=behind.__getitem__)
    gains = {name: scores["sensible"][name] - scores["torch's"][name] for name in OPTIMIZERS}
    most = max(gains, key=gains.__getitem__)
    first = "the rate matters more than the optimizer" if gains[most] > spread["sensible"] else "the optimizer matters"
    return (
        f"Between optimizers lie {spread[KINDS[0]]:.1f} points at torch's rates, {spread['sensible']:.1f} at sensible "
        f"ones (best: {best['sensible']}, {scores['sensible'][best['sensible']]:.2f} %); the rate moves {most} by "
        f"{gains[most]:.1f}: {first}. At the rates of LRRangeTest, which was told nothing, they are "
        f"{spread['swept']:.1f} points apart (best: {best['swept']}, "
        f"{scores['swept'][best['swept']]:.2f} %); against the sensible rate it is worst for {least} "
        f"({behind[least]:+.1f} points)."
    )


def _picture(runs: dict[tuple[str, str], Run]) -> Any:
    figure = new_figure(13.0, 4.4)
    panels = figure.subplots(1, 3, sharey=True)
    titles = ("torch's default rate", "a sensible rate", "the rate that LRRangeTest found")
    for axes, kind, title in zip(panels, KINDS, titles, strict=True):
        for place, name in enumerate(OPTIMIZERS):
            run = runs[name, kind]
            style = "--" if name == "AdamW" else "-"  # Adam's curve lies under it
            label = f"{name}, lr {run.rate:.2g}"
            axes.plot(run.losses, color=f"C{place}", linestyle=style, linewidth=1.6, label=label)
        axes.set_title(title)
        axes.set_xlabel("batch of 64 images")
        axes.set_yscale("log")
        axes.set_ylim(0.1, 60)  # RMSprop's first steps go up to thousands
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small", loc="upper right")
    panels[0].set_ylabel("training loss, mean of 30 batches")
    return figure


if __name__ == "__main__":
    sys.exit(main("optimizers", DESCRIPTION, tell))
