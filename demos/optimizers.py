"""Seven optimizers on one net, each at torch's default rate and at a sensible one: what an epoch of MNIST makes of it.

python demos/optimizers.py
"""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from mnist_nets import relu_net
from mnist_training import Bench
from themes import Curve, Theme, main, new_figure

from lightning_tuning.findings.optimizers import OPTIMIZERS

DESCRIPTION = "Seven optimizers at torch's default learning rate and at a sensible one, an epoch of MNIST each."

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
        self._spent: list[float] = []

    @property
    def milliseconds(self) -> float:
        """Median of the steps: other programs run on this machine too."""
        return 1000 * sorted(self._spent)[len(self._spent) // 2]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the update itself, on the instance, for the length of the run."""
        optimizer, spent = trainer.optimizers[0], self._spent

        def before(*_: Any) -> None:
            spent.append(-time.perf_counter())

        def after(*_: Any) -> None:
            spent[-1] += time.perf_counter()

        # Lightning's closure, forward and backward, runs inside of `step`: it ends where gradients are complete.
        self._hooks = [optimizer.register_step_post_hook(after)]
        self._before = before

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """The gradients are there; from here on it is the optimizer's own time."""
        self._before()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Weigh the state."""
        for hook in self._hooks:
            hook.remove()
        state = trainer.optimizers[0].state.values()
        tensors = [value for values in state for value in values.values() if isinstance(value, torch.Tensor)]
        self.megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def tell(bench: Bench) -> Theme:
    """Train with each."""
    images = bench.images(IMAGES)
    rows, curves, scores = [], {}, {}
    for name, facts in OPTIMIZERS.items():
        for rate in dict.fromkeys((facts.default_lr, SENSIBLE[name])):
            curve, watch = Curve(), Watch()

            def optimizer(parameters: Any, facts: Any = facts, rate: float = rate) -> torch.optim.Optimizer:
                return getattr(torch.optim, facts.torch_class)(parameters, lr=rate, **facts.arguments)

            outcome = bench.train(
                lambda: relu_net(4, 256), images, optimizer, callbacks=[curve, watch], limit_val_batches=0
            )
            whose = "torch's" if rate == facts.default_lr else "sensible"
            if facts.default_lr == SENSIBLE[name]:
                whose = "both"
            rows.append(
                (
                    name,
                    f"{rate:g}",
                    whose,
                    outcome.percent,
                    f"{outcome.test_loss:.3f}",
                    f"{watch.megabytes:.2f}",
                    f"{watch.milliseconds:.2f}",
                )
            )
            curves[name, whose] = curve.smooth(30)
            scores[name, whose] = outcome.accuracy
    columns = ("optimizer", "lr", "whose", "test accuracy", "test loss", "state MB", "ms per update")
    return Theme(columns, rows, _picture(curves), _verdict(scores))


def _verdict(scores: dict[tuple[str, str], float]) -> str:
    default = {name: score for (name, whose), score in scores.items() if whose != "sensible"}
    sensible = {name: score for (name, whose), score in scores.items() if whose != "torch's"}
    spread = {kind: 100 * (max(s.values()) - min(s.values())) for kind, s in (("d", default), ("s", sensible))}
    best, worst = max(sensible, key=sensible.__getitem__), min(sensible, key=sensible.__getitem__)
    gains = {name: 100 * (sensible[name] - default[name]) for name in default}
    most = max(gains, key=gains.__getitem__)
    return (
        f"At torch's rates the optimizers are {spread['d']:.1f} points apart, at sensible ones {spread['s']:.1f} "
        f"({best} {100 * sensible[best]:.2f} %, {worst} {100 * sensible[worst]:.2f} %). The rate moves {most} by "
        f"{gains[most]:.1f} points: "
        + (
            "choose the rate first, then the optimizer."
            if gains[most] > spread["s"]
            else "here the optimizer matters more than its rate."
        )
    )


def _picture(curves: dict[tuple[str, str], list[float]]) -> Any:
    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate(OPTIMIZERS):
        for axes, kinds in ((left, ("torch's", "both")), (right, ("sensible", "both"))):
            losses = next(curves[name, kind] for kind in kinds if (name, kind) in curves)
            facts = OPTIMIZERS[name]
            rate = facts.default_lr if axes is left else SENSIBLE[name]
            style = "--" if name == "AdamW" else "-"  # Adam's curve lies under it
            axes.plot(losses, color=f"C{place}", linestyle=style, linewidth=1.6, label=f"{name}, lr {rate:g}")
    for axes, title in ((left, "torch's default rate"), (right, "a sensible rate")):
        axes.set_title(title)
        axes.set_xlabel("batch of 64 images")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    left.set_ylabel("training loss, mean of 30 batches")
    return figure


if __name__ == "__main__":
    sys.exit(main("optimizers", DESCRIPTION, tell))
