"""A net trained once with everything attached, and what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from filelock import FileLock  # which torch itself needs
from torch import Tensor

from lightning_tuning import Finding, Journal, Progress, Severity, TuningSuite, TuningWarning
from tests.helpers import quiet_trainer
from tests.quiet.zoo import Net

SETTLED = 0.05  # of the whole fall of the loss, at most, comes in the last third of a run that settles


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        net: its name.
        value: of the goal's metric at the end.
        progress: what the library thinks of the run at its end.
        unsettled: how much of the whole fall of the training loss came from the second third of the run to the last.
        findings: as plain dicts, worst first.
        notes: what checks that could not see said of it.
        seconds: of processor time.
    """

    net: str
    value: float
    progress: str
    unsettled: float
    findings: list[dict[str, Any]]
    notes: list[str]
    seconds: float

    def at_least(self, severity: Severity) -> list[str]:
        found = map(Finding.from_dict, self.findings)
        return [
            f"{finding.severity} {finding.text(silence=False)}" for finding in found if finding.severity >= severity
        ]

    def codes(self, severity: Severity) -> set[str]:
        return {finding["code"] for finding in self.findings if finding["severity"] == str(severity)}


class LossCurve(pl.Callback):
    """A user's own callback: remembers the training losses."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if isinstance(outputs, dict) and "loss" in outputs:
            self.losses.append(outputs["loss"].detach())

    def unsettled(self) -> float:
        """The fall from the second third to the last one, as a share of that from the start to the last one."""
        if len(self.losses) < 12:
            return 0.0
        curve = torch.stack(self.losses).float()
        third = len(curve) // 3
        start, middle, last = curve[:3].mean(), curve[third : 2 * third].mean(), curve[2 * third :].mean()
        return ((middle - last).abs() / (start - last).abs()).item()


def train(net: Net, *, bare: bool = False, **suite: Any) -> Outcome:
    """Run ``net`` with ``TuningSuite(**suite)``, or without (``bare``); leaves no trace of its seed.

    Warnings of our own are not raised: they are findings.
    """
    with seeded_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # Lightning's; it is meant where it is
        began, curve = time.process_time(), LossCurve()
        module = net.module()
        ours = [] if bare else [TuningSuite(**suite)]
        trainer = quiet_trainer(callbacks=[*ours, curve, *net.callbacks()], **net.trainer)
        trainer.fit(module, *net.data())
        seconds = time.process_time() - began
    journal = Journal.of(trainer)
    return Outcome(
        net=net.name,
        value=float(trainer.callback_metrics[net.goal.metric]),
        progress=Progress.of(trainer).state,
        unsettled=curve.unsettled(),
        findings=[finding.to_dict() for finding in journal.findings],
        notes=list(journal.notes),
        seconds=seconds,
    )


def outcome(net: Net, folder: Path) -> Outcome:
    """The same, but trained only once by all processes that name the same ``folder``; others wait for its end."""
    kept = folder / f"{net.name}.json"
    with FileLock(folder / f"{net.name}.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(asdict(train(net))))
    return Outcome(**json.loads(kept.read_text()))


@contextlib.contextmanager
def seeded_run() -> Iterator[None]:
    """Seed everything, and leave no trace of it."""
    with torch.random.fork_rng(devices=[]), mock.patch.dict(os.environ):
        pl.seed_everything(0, verbose=False)
        yield
