"""``lightning-tuning check``: Preflight and every check on the first batches of a model."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning import __version__
from lightning_tuning.checks import Preflight
from lightning_tuning.cli._config import UsageError
from lightning_tuning.cli._outcome import outcome_of
from lightning_tuning.cli._subject import subject_of, trainer_settings, with_train_loader
from lightning_tuning.findings import Journal, Severity, TuningWarning
from lightning_tuning.findings.settings import settings_here
from lightning_tuning.reporters.sarif import sarif
from lightning_tuning.suite import TuningSuite

__all__ = ["check"]


def check(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    outcome = outcome_of(_run, arguments, undone="nothing was checked", is_for_programs=arguments.format != "text")
    if outcome is None:
        return 2
    trainer, preflight = outcome
    journal = Journal.of(trainer)
    findings = journal.findings
    report: dict[str, Any] | None = None
    if arguments.format == "sarif":
        home = _defined_at(type(trainer.lightning_module))
        report = sarif(findings, Path.cwd(), home=home, notes=journal.notes, version=__version__)
    elif arguments.format == "json":
        report = {
            "verdicts": [verdict.to_dict() for verdict in preflight.verdicts],
            "suspects": [finding.code for finding in preflight.suspects],
            "findings": [finding.to_dict() for finding in findings],
            "notes": journal.notes,
        }
    if report is not None:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    found = any(finding.severity >= Severity.WARNING for finding in findings)
    return int(found or any(verdict.outcome == "failed" for verdict in preflight.verdicts))


def _defined_at(kind: type) -> str | None:
    """The line at which the class begins, where its source can be read."""
    try:
        return f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return None


def _run(arguments: argparse.Namespace) -> tuple[pl.Trainer, Preflight]:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices there are, products there are
    pl.seed_everything(arguments.seed, verbose=False)
    subject = with_train_loader(subject_of(arguments))
    settings = trainer_settings(subject)
    if arguments.max_epochs is not None:
        settings["max_epochs"] = arguments.max_epochs
    # Where nobody knows how long the real run is, nobody can say what its schedule and its decay come to.
    ignore = [*arguments.ignore, *([] if settings.get("max_epochs") else ["LT5", "LT406"])]
    settings.setdefault("max_epochs", 1000)  # Lightning's own default
    try:
        ignore += settings_here().ignore or ()
        suite = TuningSuite(ignore=ignore, on_finding="warn")  # whatever real runs do: here all is to be told
    except ValueError as error:
        raise UsageError(str(error)) from error
    preflight = Preflight(max_seconds=arguments.max_seconds, then_stop=arguments.batches)
    try:
        trainer = pl.Trainer(
            **settings,
            accelerator=arguments.accelerator,
            devices=1,
            callbacks=[suite, preflight],
            limit_val_batches=arguments.batches,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty() and arguments.format == "text",
            log_every_n_steps=1,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)  # the table and the summary say it
        trainer.fit(subject.model, datamodule=subject.data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return trainer, preflight
