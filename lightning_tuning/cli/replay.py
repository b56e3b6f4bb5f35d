"""``lightning-tuning replay``: the step of a bundle once more, and its verdict beside the recorded one."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import traceback
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_tuning.cli._config import UsageError
from lightning_tuning.cli._subject import subject_of
from lightning_tuning.guards.bundle import (
    Bundle,
    BundleError,
    Repetition,
    read_bundle,
    recorded_settings,
    repeat_bundle,
)
from lightning_tuning.reporters.beside import print_beside_bars
from lightning_tuning.trace import Origin

__all__ = ["replay"]


def replay(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    with contextlib.redirect_stdout(sys.stderr):  # the user's own printing; stdout is for the verdict
        try:
            bundle = read_bundle(arguments.bundle)
            repetition = _run(bundle, arguments)
        except (UsageError, BundleError) as error:
            sys.stderr.write(f"lightning-tuning: {error}\n")
            return 2
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code may raise anything
            traceback.print_exc(file=sys.stderr)
            sys.stderr.write(f"lightning-tuning: {type(error).__name__} before the step; nothing was replayed.\n")
            return 2
    verdict = _verdict(repetition)
    if arguments.json:
        sys.stdout.write(json.dumps(_report(bundle, repetition, verdict), indent=2) + "\n")
    else:
        _print(bundle, repetition, verdict)
    return int(not repetition.same)


def _run(bundle: Bundle, arguments: argparse.Namespace) -> Repetition:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # devices there are, products there are
    if arguments.model is None and arguments.config is None:
        recorded = bundle.run["module"]
        raise UsageError(
            f"name the LightningModule; that of the run was {recorded}: "
            f"lightning-tuning replay {arguments.bundle} {recorded}"
        )
    with recorded_settings(bundle):
        pl.seed_everything(0, verbose=False)
        subject = subject_of(arguments, bundle.hparams)
        return repeat_bundle(
            bundle,
            subject.model,
            datamodule=subject.data,
            accelerator=arguments.accelerator,
            partial=arguments.partial,
        )


def _verdict(repetition: Repetition) -> str:
    now, recorded = repetition.now, repetition.recorded
    if now is None:
        return "not reproduced: the step could not be repeated"
    if repetition.finite:
        if recorded is not None and recorded.kind == "not-reproduced":
            return "not reproduced: the step is finite, as it was when the run itself repeated it"
        return "the step is finite now: the recorded cause is gone"
    if recorded is None:
        return f"the step is not finite, and this is why ({now.cause}); the run itself did not look for it"
    if repetition.same:
        return f"reproduced: {now.cause}, the same cause in the same operation"
    return f"another cause: {now.cause} now, {recorded.cause} recorded"


def _report(bundle: Bundle, repetition: Repetition, verdict: str) -> dict[str, Any]:
    recorded, now = repetition.recorded, repetition.now
    return {
        "bundle": str(bundle.path),
        "verdict": verdict,
        "same": repetition.same,
        "finite": repetition.finite,
        "finding": bundle.finding.to_dict(),
        "recorded": None if recorded is None else recorded.to_dict(),
        "now": None if now is None else now.to_dict(),
        "obstacle": repetition.obstacle,
        "notes": list(repetition.notes),
    }


def _print(bundle: Bundle, repetition: Repetition, verdict: str) -> None:
    run, versions = bundle.run, bundle.run["versions"]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    when = f"step {run['step']}, epoch {run['epoch']}, batch {bundle.batch_idx}"
    there = f"{run['device']}, {run['precision']}, torch {versions.get('torch', '?')}"
    table.add_row("bundle", Text(f"{bundle.path}: {bundle.finding.code} {bundle.finding.name}, {when}; {there}"))
    table.add_row("recorded", Text(_sentence(repetition.recorded, bundle) or f"not known: {_why_blind(bundle)}"))
    now = _sentence(repetition.now, bundle) or repetition.obstacle
    table.add_row("now", Text("every number is finite" if repetition.finite else now))
    for number, note in enumerate(repetition.notes):
        table.add_row("" if number else "mind", Text(note))
    style = "bold green" if repetition.finite else "bold"
    print_beside_bars(Console(), table, Text(), Text(verdict, style))


def _sentence(origin: Origin | None, bundle: Bundle) -> str:
    return "" if origin is None else f"{origin.cause}: {origin.sentence(batch_idx=bundle.batch_idx)}"


def _why_blind(bundle: Bundle) -> str:
    return bundle.blind or "the step was not replayed in the run"
