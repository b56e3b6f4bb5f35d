"""What the callbacks cost: seconds per training step against a bare ``Trainer``, with torch's own anomaly detection.

A shared machine is faster and slower by more than what there is to measure, from one second to the next. So all runs
are under way at once, each in a thread of its own, and take turns of a few steps, in an order drawn anew each time: a
slow moment hits all of them. The first step of a turn, which finds the caches full of another run's numbers, is not
counted. The ratio is taken within a turn (of the median steps), and its median over all turns is printed, with the
quartiles, and with the standard error that the rounds tell: each begins with fresh models, elsewhere in memory. The
ratio of the means has the sampled looks of the monitors in it as well. What is paid once, from the start of the fit to
the second batch (the trace of the first step, every look of a check), is timed apart: as milliseconds and in training
steps, above the bare Trainer's.

    make bench
    python benchmarks/bench.py --rounds 9 --turns 40 --only cnn --attach NanLossGuard TuningSuite
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import random
import statistics
import threading
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
STEPS = {"mlp": 11, "cnn": 4, "transformer": 4}
"""Of a turn, the first of them not counted: some tens of milliseconds, for which a machine keeps its speed."""


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
    """Times a run that waits for its turn, once it is settled.

    Args:
        read: the clock.
        length: steps in a turn.
        turns: how many there will be.
        anomaly: whether torch's anomaly detection is on in them; it is one flag for all threads.
    """

    def __init__(self, read: Callable[[], float], length: int, turns: int, *, anomaly: bool) -> None:
        self.read, self.length, self.turns, self.anomaly = read, length, turns, anomaly
        self.may_go, self.has_paused = threading.Semaphore(0), threading.Semaphore(0)
        self.starts: list[float] = []
        self.steps: list[list[float]] = []
        self.failed: BaseException | None = None

    def on_fit_start(self, *_: Any) -> None:  # noqa: D102
        self.starts.append(self.read())

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: D102
        self.starts.append(self.read())
        done = len(self.starts) - 2 - SETTLING
        if not self.turns or done < 0 or done % self.length:
            return
        if done:
            turn = itertools.pairwise(self.starts[-self.length :])
            self.steps.append([after - before for before, after in turn])
        self.pause()
        self.starts[-1] = self.read()

    def pause(self) -> None:
        """Let others go on, until it is this run's turn."""
        self.has_paused.release()
        self.may_go.acquire()
        torch.autograd.set_detect_anomaly(self.anomaly)  # type: ignore[no-untyped-call]

    def go_on(self) -> None:
        """Give this run a turn, from another thread, and wait for its end."""
        self.may_go.release()
        self.has_paused.acquire()
        if self.failed is not None:
            raise self.failed

    @property
    def once(self) -> float:
        """Seconds from the start of the fit to the second batch."""
        return self.starts[2] - self.starts[0]

    @property
    def batches(self) -> int:
        """That the run takes."""
        return SETTLING + self.turns * self.length + 1 if self.turns else 3

    @property
    def per_step(self) -> list[float]:
        """Median step of each turn, in seconds."""
        return [statistics.median(steps) for steps in self.steps]

    @property
    def mean(self) -> float:
        """Mean of all steps, with those in it that a monitor looks at more closely."""
        return statistics.fmean(itertools.chain.from_iterable(self.steps))


class Silent:
    """A reporter that takes the findings' place on the terminal."""

    def finding(self, finding: lt.Finding) -> bool:  # noqa: D102
        return True

    def close(self, findings: Any, notes: Any) -> None:  # noqa: D102
        pass


def fit(model: str, attached: str, clock: Clock) -> None:
    """One run."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of each thread its own
    module = MODELS[model]()
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
    trainer.fit(module, module.batches(clock.batches))


def start(model: str, attached: str, clock: Clock) -> threading.Thread:
    """A run that is settled and waits for its turn."""

    def run() -> None:
        try:
            fit(model, attached, clock)
        except BaseException as error:  # noqa: BLE001  # it is raised again where the others are waited for
            clock.failed = error
        clock.has_paused.release()

    thread = threading.Thread(target=run, name=attached, daemon=True)
    thread.start()
    clock.has_paused.acquire()
    if clock.failed is not None:
        raise clock.failed
    return thread


def one_round(
    model: str, names: list[str], length: int, turns: int, read: Callable[[], float]
) -> dict[str, tuple[Clock, Clock]]:
    """All of ``names`` on fresh models: the first batches of each, one after the other; and the rest side by side."""
    anomaly = {name: ARGUMENTS.get(name, {}).get("detect_anomaly", False) for name in names}
    first = {name: Clock(read, length, 0, anomaly=anomaly[name]) for name in names}
    for name, clock in first.items():
        fit(model, name, clock)
    clocks = {name: Clock(read, length, turns, anomaly=anomaly[name]) for name in names}
    threads = [start(model, name, clock) for name, clock in clocks.items()]
    waiting = list(clocks.values())
    for _ in range(turns):
        random.shuffle(waiting)
        for clock in waiting:
            clock.go_on()
    for clock, thread in zip(clocks.values(), threads, strict=True):
        clock.may_go.release()  # the last batch
        thread.join()
        if clock.failed is not None:
            raise clock.failed
    return {name: (first[name], clocks[name]) for name in names}


def bench(
    model: str, attached: list[str], *, rounds: int, turns: int, read: Callable[[], float], console: Console
) -> None:
    """Measure the named ones of :data:`ATTACHED` on one model and print the table."""
    names, length = ["bare Trainer", *attached], STEPS[model]
    tables = [one_round(model, names, length, turns, read) for _ in range(rounds)]
    title = f"{model}: {MODELS[model].__doc__} {rounds} rounds of {turns} turns of {length} steps, one thread"
    table = Table("callback", title=title, title_justify="left")
    for column in ("ms per step", "ratio", "quartiles", "+-", "of means", "once, ms", "once, in steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in names:
        first, runs = zip(*(clocks[name] for clocks in tables), strict=True)
        first_of_bare, bare = zip(*(clocks["bare Trainer"] for clocks in tables), strict=True)
        of_rounds = [
            [step / other for step, other in zip(run.per_step, base.per_step, strict=True)]
            for run, base in zip(runs, bare, strict=True)
        ]
        ratios = sorted(itertools.chain.from_iterable(of_rounds))
        medians = [statistics.median(of_round) for of_round in of_rounds]
        error = statistics.stdev(medians) / rounds**0.5 if rounds > 1 else float("nan")
        once = [run.once - base.once for run, base in zip(first, first_of_bare, strict=True)]
        in_steps = [added / statistics.median(base.per_step) for added, base in zip(once, bare, strict=True)]
        means = statistics.median(run.mean / base.mean for run, base in zip(runs, bare, strict=True))
        table.add_row(
            name,
            f"{1e3 * statistics.median(step for run in runs for step in run.per_step):.3f}",
            f"{statistics.median(ratios):.3f}",
            f"{ratios[len(ratios) // 4]:.3f} .. {ratios[-1 - len(ratios) // 4]:.3f}",
            f"{error:.3f}",
            f"{means:.3f}",
            f"{1e3 * statistics.median(once):.1f}",
            f"{statistics.median(in_steps):.2f}",
        )
    console.print(table)


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=40, help="of each run in a round; default: %(default)s")
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
    read = time.perf_counter if arguments.clock == "wall" else time.thread_time
    for model in MODELS if arguments.only is None else [arguments.only]:
        attached = [name for name in arguments.attach if name != "bare Trainer"]
        bench(model, attached, rounds=arguments.rounds, turns=arguments.turns, read=read, console=Console(width=118))


if __name__ == "__main__":
    main()
