"""In a long run the whole suite, and what records it, take no more memory than in a short one."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import lightning.pytorch as pl

from lightning_tuning import TuningReport, TuningSuite
from tests.helpers import Mlp, quiet_trainer

EARLY, LATE = 600, 1600
SPARE = 8 * 1024
"""Bytes: eight for each step between the two looks; one float a step would take 32."""


class Weigher(pl.Callback):
    """Bytes that code of the files of a pattern holds, at two steps."""

    def __init__(self, files: str) -> None:
        self.files = files
        self.bytes: dict[int, int] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (EARLY, LATE):
            gc.collect()
            own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, self.files)])
            self.bytes[trainer.global_step] = sum(trace.size for trace in own.traces)


class Hoarder(pl.Callback):
    """Keeps a number of every step."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.kept.append(trainer.global_step / 7)


def growth(files: str, *callbacks: pl.Callback) -> int:
    weigher = Weigher(files)
    tracemalloc.start()
    try:
        pl.seed_everything(0, verbose=False)
        model = Mlp(lr=0.01, batches=LATE + 1, batch_size=4)
        quiet_trainer(callbacks=[*callbacks, weigher], limit_val_batches=0).fit(model)
    finally:
        tracemalloc.stop()
    return weigher.bytes[LATE] - weigher.bytes[EARLY]


def test_the_suite_does_not_grow_nor_does_the_record_of_a_run() -> None:
    assert growth("*/lightning_tuning/*", TuningSuite(), TuningReport(None)) < SPARE


def test_growth_would_be_seen() -> None:
    assert growth(__file__, Hoarder()) > SPARE
