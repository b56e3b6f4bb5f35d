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
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from nets import MODELS
from rich.console import Console
from rich.table import Table
from turns import Clock, one_round

import lightning_tuning as lt
from lightning_tuning import monitors

FOLDER = tempfile.TemporaryDirectory()
"""For runs that are kept: each takes a folder of its own in it."""
STEPS = {"mlp": 11, "cnn": 4, "transformer": 4}
"""Of a turn, the first of them not counted: some tens of milliseconds, for which a machine keeps its speed."""


class ByHand(pl.Callback):
    """The least that whoever decides before an update must do: read the loss, and one norm over all gradients."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:  # noqa: D102
        self.loss = loss.item()

    def on_before_optimizer_step(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = torch.nn.utils.get_total_norm(gradients).item()


def alone(kind: Callable[[], pl.Callback]) -> list[pl.Callback]:
    """One callback with its defaults."""
    return [kind()]


ATTACHED: dict[str, Callable[[], list[pl.Callback]]] = {
    "bare Trainer": list,
    **{name: functools.partial(alone, getattr(monitors, name)) for name in monitors.__all__},
    "NanLossGuard": lambda: [lt.NanLossGuard()],
    'NanLossGuard(action="skip")': lambda: [lt.NanLossGuard(action="skip")],
    'NanLossGuard(action="rollback")': lambda: [lt.NanLossGuard(action="rollback")],
    "loss and norm by hand": lambda: [ByHand()],
    "detect_anomaly=True, no callback": list,
    "DropoutBNConflictWarning": lambda: [lt.DropoutBNConflictWarning()],
    'WeightInitCallback("he")': lambda: [lt.WeightInitCallback("he")],
    "PlateauLR": lambda: [lt.PlateauLR(monitor="train_loss")],
    "every check": lambda: [member for member in lt.TuningSuite().members if ".checks." in type(member).__module__],
    "TuningSuite": lambda: [lt.TuningSuite()],
    "TuningSuite, TuningReport(None)": lambda: [lt.TuningSuite(), lt.TuningReport(None, Path(FOLDER.name, "run"))],
}


ARGUMENTS: dict[str, dict[str, Any]] = {"detect_anomaly=True, no callback": {"detect_anomaly": True}}
"""Of the ``Trainer``: what torch itself offers for finding a NaN, for comparison with the guard."""


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


def bench(
    model: str, attached: list[str], *, rounds: int, turns: int, read: Callable[[], float], console: Console
) -> None:
    """Measure the named ones of :data:`ATTACHED` on one model and print the table."""
    names, length = ["bare Trainer", *attached], STEPS[model]
    fits = {name: functools.partial(fit, model, name) for name in names}

    def make_clock(name: str, turns: int) -> Clock:
        return Clock(read, length, turns, anomaly=ARGUMENTS.get(name, {}).get("detect_anomaly", False))

    tables = [one_round(fits, make_clock, turns) for _ in range(rounds)]
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
