"""``lightning-tuning lr``: at which learning rates the loss of a model falls."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import statistics
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_tuning.cli._config import UsageError
from lightning_tuning.cli._outcome import outcome_of
from lightning_tuning.cli._subject import subject_of, trainer_settings, with_train_loader
from lightning_tuning.findings import Finding, Journal, TuningWarning
from lightning_tuning.reporters.beside import print_beside_bars
from lightning_tuning.treatments import LRRangeTest
from lightning_tuning.treatments._lr_result import LRRangeResult

__all__ = ["lr", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"


class _OnlyTest(LRRangeTest):
    """Ends the run where its first step would begin."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        super().on_train_batch_start(*arguments)
        raise _Tested


class _Tested(Exception):  # noqa: N818  # no error: everything that was asked for is done
    """There is nothing more to do."""


def lr(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    result = outcome_of(_run, arguments, undone="nothing was tried", is_for_programs=arguments.json)
    if result is None:
        return 2
    if arguments.json:
        report = {**result.to_dict(), "verified": result.verified, "reason": result.reason}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        _tell(result)
    return int(result.suggested is None)


def sparkline(losses: Sequence[float], width: int = 60) -> str:
    """Losses as bars, as many as there is room for; what runs away is the highest, and a blank is no number.

    Example:
        >>> sparkline([2.0, 2.0, 1.5, 1.0, 9.0, float("nan")])
        '██▅▁█ '
    """
    count = min(width, len(losses))
    parts = [losses[i * len(losses) // count : (i + 1) * len(losses) // count] for i in range(count)]
    means = [statistics.fmean(part) for part in parts]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return " " * count
    low, high = min(finite), max(finite[: max(1, len(finite) // 3)])
    room = max(high - low, 1e-12)
    heights = [min(1.0, (mean - low) / room) if math.isfinite(mean) else None for mean in means]
    return "".join(" " if height is None else _BARS[round(height * (len(_BARS) - 1))] for height in heights)


def _run(arguments: argparse.Namespace) -> LRRangeResult:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices there are, products there are
    pl.seed_everything(arguments.seed, verbose=False)
    subject = with_train_loader(subject_of(arguments))
    try:
        test = _OnlyTest(
            min_lr=arguments.min_lr,
            max_lr=arguments.max_lr,
            steps=arguments.steps,
            verify=arguments.verify,
            plot=arguments.plot,
            update=False,
        )
        trainer = pl.Trainer(
            **{"max_epochs": 1000, **trainer_settings(subject)},
            accelerator=arguments.accelerator,
            devices=1,
            callbacks=[test],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    Journal.of(trainer).reporters[:] = [_Silent()]
    with warnings.catch_warnings(), contextlib.suppress(_Tested):
        warnings.simplefilter("ignore", TuningWarning)
        try:
            trainer.fit(subject.model, datamodule=subject.data)
        except MisconfigurationException as error:
            raise UsageError(str(error)) from error
    if test.result_ is None:
        raise UsageError("there was no training batch, or no optimizer, to try a learning rate with.")
    return test.result_


class _Silent:
    """Takes the place of the reporter at the terminal: the table says it all."""

    def finding(self, finding: Finding) -> bool:
        """Say nothing."""
        return False

    def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
        """Likewise."""


def _tell(result: LRRangeResult) -> None:
    found = result.suggestion
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("learning rate", justify="right", no_wrap=True)
    for name, rate in (
        ("the loss begins to fall", found.low),
        ("middle of the fall (valley)", found.valley),
        ("steepest fall", found.steepest),
        ("a tenth of the lowest loss's rate", found.minimum_over_ten),
        ("the fall is over", found.high),
        ("the optimizer has", result.before),
    ):
        if rate is not None:
            table.add_row(Text(name), Text(f"{rate:.2g}"))
    parts: list[Any] = []
    if result.rates:
        ends = f"{result.rates[0]:.0e} {sparkline(result.losses)} {result.rates[-1]:.2g}"
        parts += [Text(f"loss over learning rate, {len(result.losses)} steps", "dim"), Text(ends), Text()]
    text = result.text()
    print_beside_bars(Console(), *parts, table, Text(), Text(text[0].upper() + text[1:] + ".", "bold"))
