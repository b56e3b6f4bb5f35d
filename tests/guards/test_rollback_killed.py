"""A run that is killed while it goes back resumes from its last checkpoint as if it had been killed before."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tuning import NanLossGuard
from lightning_tuning.guards import _rollback_state
from tests.guards.faulty import FaultyBN, same
from tests.guards.test_nan_loss_rollback import records, state_of
from tests.helpers import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


class Later(FaultyBN):
    """Its second epoch has a bad batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.faults = {3: "nan"} if self.trainer.current_epoch == 1 else {}
        return super().training_step(batch, batch_idx)


def train(folder: str | None = None, resume: Path | None = None) -> tuple[Any, Any]:
    callbacks: list[Any] = [NanLossGuard("rollback", snapshot_every_n_steps=2)]
    if folder is not None:
        callbacks.append(ModelCheckpoint(dirpath=folder, save_top_k=-1))
    model = Later(batches=6)
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=folder is not None, max_epochs=3)
    trainer.fit(model, ckpt_path=resume, weights_only=None if resume is None else True)
    return model, trainer


def killed_while_going_back(folder: str) -> None:
    restored = _rollback_state._restore_model

    def restore_and_die(*args: Any) -> None:
        restored(*args)  # the weights are back, the optimizer is not, the rate is not cut
        os.kill(os.getpid(), signal.SIGKILL)

    _rollback_state._restore_model = restore_and_die
    torch.set_num_threads(1)
    train(folder)


def test_resume(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_while_going_back, args=(str(tmp_path),))
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    (saved,) = tmp_path.iterdir()
    model, trainer = train(str(tmp_path), saved)
    assert [(record.at_step, record.undone) for record in records(trainer)] == [(10, 2)]
    unbroken, other = train()
    assert same(state_of(model, trainer.optimizers), state_of(unbroken, other.optimizers))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.05
