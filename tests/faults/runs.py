"""A run with or without its fault, and what came of it."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock  # which torch itself needs

from lightning_tuning import Journal, Progress, TuningError, TuningSuite, TuningWarning
from tests.faults.fault import Setup
from tests.faults.learner import Learner
from tests.faults.outcome import Outcome
from tests.helpers import quiet_trainer
from tests.quiet.runs import seeded_run


def train(setup: Setup, **suite: Any) -> Outcome:
    """Run ``setup`` with ``TuningSuite(**suite)``; a guard that ends it by a finding has done its work."""
    with seeded_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        began = time.process_time()
        module = setup.module()
        trainer = quiet_trainer(
            callbacks=[TuningSuite(**suite)], **{"max_epochs": module.problem.epochs, **setup.trainer}
        )
        with contextlib.suppress(TuningError):
            trainer.fit(module)
        accuracy, loss = _evaluate(module)
        seconds = time.process_time() - began
    return Outcome(
        accuracy=accuracy,
        loss=loss,
        progress=Progress.of(trainer).state,
        findings=[finding.to_dict() for finding in Journal.of(trainer).findings],
        seconds=seconds,
    )


def outcome(setup: Setup, folder: Path) -> Outcome:
    """The same, but trained only once by all processes that name the same ``folder``; others wait for its end."""
    kept = folder / f"{setup.name}.json"
    with FileLock(folder / f"{setup.name}.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(asdict(train(setup))))
    return Outcome(**json.loads(kept.read_text()))


@torch.no_grad()
def _evaluate(module: Learner) -> tuple[float, float]:
    x, y = module.problem.data()[1].tensors
    outputs = module.eval()(x)
    return module.problem.accuracy(outputs, y).item(), module.problem.loss(outputs, y).item()
