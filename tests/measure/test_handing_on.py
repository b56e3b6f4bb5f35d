"""When readings that lie on the host anyway reach who waits for them: ten together, but never after it matters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_tuning.findings import Rule, Severity
from lightning_tuning.measure import Reading
from lightning_tuning.measure._position import Position
from lightning_tuning.runtime import Desk, TuningCallback
from tests.helpers import ManualGAN, Mlp, quiet_trainer

RULE = Rule("LT000", "told", Severity.INFO, "fact", why="a test", remedy="none", source="here")


class Waits(TuningCallback):
    """Counts what has reached it by the end of each batch."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.reached: list[int] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).watch_loss()
        Desk.of(trainer).meter.subscribe(self.readings.append)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        Desk.of(trainer).meter.gradient_norms(optimizer, self)

    def on_train_batch_start(self, *_: Any) -> None:
        self.reached.append(len(self.readings))


def test_ten_come_together_and_the_rest_at_the_end() -> None:
    waits = Waits()
    quiet_trainer(callbacks=[waits], max_epochs=3).fit(Mlp())
    assert waits.reached == [0] * 10 + [10] * 10 + [20] * 4
    assert [reading.step for reading in waits.readings] == list(range(24))


@pytest.mark.parametrize("broken_at", [3, 4])
def test_what_is_not_finite_comes_at_once(broken_at: int) -> None:
    class Breaks(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (math.inf if self.global_step == broken_at else 1.0)

    waits = Waits()
    quiet_trainer(callbacks=[waits], max_steps=6).fit(Breaks())
    assert waits.reached[: broken_at + 2] == [0] * (broken_at + 1) + [broken_at + 1]


def test_what_is_logged_comes_at_once(tmp_path: Path) -> None:
    waits = Waits()
    quiet_trainer(callbacks=[waits], logger=CSVLogger(tmp_path), log_every_n_steps=3).fit(Mlp())
    assert waits.reached == [0, 0, 0, 3, 3, 3, 6, 6]


def test_nothing_waits_where_a_finding_ends_the_run() -> None:
    class Raises(Waits):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            super().setup(trainer, pl_module, stage)
            Desk.of(trainer).journal.configure(on_finding="raise")

    waits = Raises()
    quiet_trainer(callbacks=[waits]).fit(Mlp())
    assert waits.reached == list(range(8))


def test_a_checkpoint_has_it_all(tmp_path: Path) -> None:
    waits = Waits()
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    quiet_trainer(callbacks=[waits, saves], enable_checkpointing=True).fit(Mlp())
    assert waits.reached == [0, 0, 0, 0, 4, 4, 4, 4]


def test_who_asks_or_tells_has_what_is_known() -> None:
    class Asks(Waits):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                assert Desk.of(trainer).progress.state == "unknown"
            if trainer.global_step == 5:
                self.report(trainer, RULE.finding("told"))
            super().on_train_batch_start()

    waits = Asks()
    quiet_trainer(callbacks=[waits]).fit(Mlp())
    assert waits.reached == [0, 0, 0, 3, 3, 5, 5, 5]


def test_each_reading_reaches_everybody_before_the_next() -> None:
    order: list[tuple[str, int]] = []

    class Curious(Waits):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            super().setup(trainer, pl_module, stage)
            desk = Desk.of(trainer)
            desk.meter.subscribe(lambda r: order.append(("first", r.step)) or desk.progress.state)
            desk.meter.subscribe(lambda r: order.append(("second", r.step)))

    quiet_trainer(callbacks=[Curious()]).fit(Mlp())
    assert order == [(who, step) for step in range(8) for who in ("first", "second")]


def test_an_error_of_the_users_loses_nothing() -> None:
    class Fails(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.global_step == 5:
                raise KeyError("theirs")
            return super().training_step(batch, batch_idx)

    waits = Waits()
    with pytest.raises(KeyError, match="theirs"):
        quiet_trainer(callbacks=[waits]).fit(Fails())
    assert len(waits.readings) == 5


@pytest.mark.parametrize(("model", "accumulate"), [(Mlp, 1), (Mlp, 3), (ManualGAN, 1)])
def test_the_position_is_the_trainers(model: type[pl.LightningModule], accumulate: int, tmp_path: Path) -> None:
    seen = []

    class Compares(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
            self.position = Position(trainer)

        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append((self.position.step, self.position.epoch))
            assert seen[-1] == (trainer.global_step, trainer.current_epoch)

        on_train_batch_end = on_train_batch_start = on_before_optimizer_step

    for epochs, path in ((2, None), (4, tmp_path / "last.ckpt")):  # the second goes on where the first ended
        trainer = quiet_trainer(callbacks=[Compares()], accumulate_grad_batches=accumulate, max_epochs=epochs)
        trainer.fit(model(), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert seen[-1][1] == 3
