"""What the callbacks cost: seconds per training step against a bare ``Trainer``, with torch's own anomaly detection.

Every round runs the bare Trainer, each callback alone, and the suite, one after the other, so that a slow moment of the
machine hits all of them; the ratio is taken within a round, and the median over the rounds is printed. It is that of
the runs' median steps; the ratio of their means has the sampled looks of the monitors in it as well. What is paid once,
from the start of the fit to the second batch (the trace of the first step, every look of a check), is timed apart: as
milliseconds and in training steps, above the bare Trainer's.

    make bench
    python benchmarks/bench.py --rounds 9 --steps 300 --only cnn --attach NanLossGuard TuningSuite
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_tuning as lt
from lightning_tuning import monitors

SETTLING = 60
"""Steps before the clock starts: the last of the checks that look at more than the first step are done by then."""


class Synthetic(pl.LightningModule):
    """A classifier on fixed random batches: the work of a step without the work of loading data."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...], batch_size: int) -> None:
        super().__init__()
        self.net, self.shape, self.batch_size = net, shape, batch_size

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: D102
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:  # noqa: D102
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def batches(self, count: int) -> DataLoader[Any]:
        """``count`` batches, the same few again and again."""
        generator = torch.Generator().manual_seed(0)
        few = [
            (
                torch.randn(self.batch_size, *self.shape, generator=generator),
                torch.randint(10, (self.batch_size,), generator=generator),
            )
            for _ in range(8)
        ]
        return DataLoader([few[i % len(few)] for i in range(count)], batch_size=None)  # type: ignore[arg-type]


def mlp() -> Synthetic:
    """The MNIST MLP: 784-256-10, batch 128."""
    return Synthetic(nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), (784,), 128)


def cnn() -> Synthetic:
    """Three blocks of convolution, batch norm, ReLU and pooling on 28 x 28 images, batch 64."""
    widths = (1, 16, 32, 64)
    blocks = [
        layer
        for i, o in itertools.pairwise(widths)
        for layer in (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return Synthetic(nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 9, 10)), (1, 28, 28), 64)


def transformer() -> Synthetic:
    """Six pre-norm encoder layers of width 64 on 32 tokens, batch 16."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    return Synthetic(nn.Sequential(encoder, nn.Flatten(), nn.Linear(32 * 64, 10)), (32, 64), 16)


MODELS: dict[str, Callable[[], Synthetic]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
STEPS = {"mlp": 100, "cnn": 20, "transformer": 20}


def alone(kind: Callable[[], pl.Callback]) -> list[pl.Callback]:
    """One callback with its defaults."""
    return [kind()]


ATTACHED: dict[str, Callable[[], list[pl.Callback]]] = {
    "bare Trainer": list,
    **{name: functools.partial(alone, getattr(monitors, name)) for name in monitors.__all__},
    "NanLossGuard": lambda: [lt.NanLossGuard()],
    'NanLossGuard(action="skip")': lambda: [lt.NanLossGuard(action="skip")],
    'NanLossGuard(action="rollback")': lambda: [lt.NanLossGuard(action="rollback")],
    "detect_anomaly=True, no callback": list,
    "DropoutBNConflictWarning": lambda: [lt.DropoutBNConflictWarning()],
    'WeightInitCallback("he")': lambda: [lt.WeightInitCallback("he")],
    "PlateauLR": lambda: [lt.PlateauLR(monitor="train_loss")],
    "every check": lambda: [member for member in lt.TuningSuite().members if ".checks." in type(member).__module__],
    "TuningSuite": lambda: [lt.TuningSuite()],
}


ARGUMENTS: dict[str, dict[str, Any]] = {"detect_anomaly=True, no callback": {"detect_anomaly": True}}
"""Of the ``Trainer``: what torch itself offers for finding a NaN, for comparison with the guard."""


class Clock(pl.Callback):
    """Seconds up to the second batch, and seconds per step once settled."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.begin = 0.0
        self.times: list[float] = []

    def on_fit_start(self, *_: Any) -> None:  # noqa: D102
        self.begin = self.read()

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: D102
        self.times.append(self.read())

    @property
    def once(self) -> float:
        """Seconds from the start of the fit to the second batch."""
        return self.times[1] - self.begin

    @property
    def per_step(self) -> float:
        """Median of the seconds from one step's start to the next one's."""
        return statistics.median(after - before for before, after in itertools.pairwise(self.times[SETTLING:]))

    @property
    def mean(self) -> float:
        """Mean of the same, with the steps in it that a monitor looks at more closely."""
        return (self.times[-1] - self.times[SETTLING]) / (len(self.times) - 1 - SETTLING)


class Silent:
    """A reporter that takes the findings' place on the terminal."""

    def finding(self, finding: lt.Finding) -> bool:  # noqa: D102
        return True

    def close(self, findings: Any, notes: Any) -> None:  # noqa: D102
        pass


def timed(model: str, attached: str, steps: int, read: Callable[[], float]) -> Clock:
    """One run; the clock with its two readings."""
    torch.manual_seed(0)
    module = MODELS[model]()
    clock = Clock(read)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, *ATTACHED[attached]()],
        **ARGUMENTS.get(attached, {}),
    )
    lt.Journal.of(trainer).reporters.append(Silent())
    trainer.fit(module, module.batches(steps + SETTLING))
    return clock


def bench(
    model: str, attached: list[str], *, rounds: int, steps: int, read: Callable[[], float], console: Console
) -> None:
    """Measure the named ones of :data:`ATTACHED` on one model and print the table."""
    clocks: dict[str, list[Clock]] = {name: [] for name in ("bare Trainer", *attached)}
    for _ in range(rounds):
        for name, runs in clocks.items():
            runs.append(timed(model, name, steps, read))
    bare = clocks["bare Trainer"]
    title = f"{model}: {MODELS[model].__doc__} {rounds} interleaved rounds of {steps} steps, one thread"
    table = Table("callback", title=title, title_justify="left")
    for column in ("ms per step", "ratio", "quartiles", "of means", "once, ms", "once, in steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, runs in clocks.items():
        once = [run.once - other.once for run, other in zip(runs, bare, strict=True)]
        in_steps = [added / other.per_step for added, other in zip(once, bare, strict=True)]
        ratios = sorted(run.per_step / other.per_step for run, other in zip(runs, bare, strict=True))
        table.add_row(
            name,
            f"{1e3 * statistics.median(run.per_step for run in runs):.3f}",
            f"{statistics.median(ratios):.3f}",
            f"{ratios[len(ratios) // 4]:.3f} .. {ratios[-1 - len(ratios) // 4]:.3f}",
            f"{statistics.median(run.mean / other.mean for run, other in zip(runs, bare, strict=True)):.3f}",
            f"{1e3 * statistics.median(once):.1f}",
            f"{statistics.median(in_steps):.2f}",
        )
    console.print(table)


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, help=f"in each run; default: {STEPS}")
    parser.add_argument("--only", choices=MODELS, help="measure this model alone")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use too"
    )
    parser.add_argument(
        "--attach", nargs="+", choices=list(ATTACHED), default=list(ATTACHED), metavar="NAME", help="these alone"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the batches lie in memory
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="lightning"
    )  # Lightning's own use of torch's pytree
    read = time.perf_counter if arguments.clock == "wall" else time.process_time
    for model in MODELS if arguments.only is None else [arguments.only]:
        steps = arguments.steps or STEPS[model]
        attached = [name for name in arguments.attach if name != "bare Trainer"]
        bench(model, attached, rounds=arguments.rounds, steps=steps, read=read, console=Console(width=118))


if __name__ == "__main__":
    main()
