"""Killed and resumed: the weights are bare Lightning's, and what the callbacks knew goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tuning import GradientExplosionMonitor, Journal, TuningSuite
from lightning_tuning.findings import Rule, Severity
from lightning_tuning.runtime import Desk, TuningCallback
from tests.contracts.discovery import observers
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import BNConvNet, DropoutNet, Mlp, TinyModule, quiet_trainer

pytestmark = [
    # Lightning tells a run that is resumed without the ModelCheckpoint that wrote the file; here that is the point.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    # And one that is resumed in the middle of an epoch that its batches begin again; bare Lightning's do too.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning"),
]

STEPS_PER_EPOCH = 8
ODD = Rule("LT997", "odd-step", Severity.INFO, "fact", why="It is.", remedy="None.", source="A test.")


class OddSteps(TuningCallback):
    """Finds something at every odd step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % 2:
            self.report(trainer, ODD.finding("odd"))


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def state(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
    return {"weights": dict(model.state_dict()), "optimizers": [o.state_dict() for o in trainer.optimizers]}


def fit(kind: type[TinyModule], callbacks: list[Any], path: Path | None = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=3, enable_checkpointing=saves, **settings)
    trainer.fit(kind(), ckpt_path=path)
    return trainer


def watched() -> list[Any]:
    return [TuningSuite(), OddSteps()]


@pytest.mark.parametrize("step", [1, 5, 8, 13, 16])
@pytest.mark.parametrize("kind", [Mlp, BNConvNet, DropoutNet], ids=lambda kind: kind.__name__)
def test_from_any_checkpoint_the_weights_are_bare_lightnings(kind: type[TinyModule], step: int, tmp_path: Path) -> None:
    fit(kind, [*watched(), checkpoints(tmp_path)])
    path = tmp_path / f"step={step}.ckpt"
    bare, suite, alone = (fit(kind, attached, path) for attached in ([], watched(), observers()))
    assert_identical(state(bare, bare.lightning_module), state(suite, suite.lightning_module))
    assert_identical(state(bare, bare.lightning_module), state(alone, alone.lightning_module))


def memory(trainer: pl.Trainer) -> dict[str, Any]:
    suite = next(callback for callback in trainer.callbacks if isinstance(callback, TuningSuite))
    monitor = next(member for member in suite.members if isinstance(member, GradientExplosionMonitor))
    desk = Desk.of(trainer)
    return {
        "findings": [f.to_dict() for f in Journal.of(trainer).findings],
        "progress": desk.progress.state_dict(),
        "monitor": monitor.tuning_state(),
    }


@pytest.mark.parametrize("epoch", [1, 2])
def test_from_an_epochs_end_everything_equals_the_unbroken_run(epoch: int, tmp_path: Path) -> None:
    boundary = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    unbroken = fit(Mlp, [*watched(), boundary])
    resumed = fit(Mlp, watched(), tmp_path / f"epoch={epoch - 1}.ckpt")
    assert_identical(state(unbroken, unbroken.lightning_module), state(resumed, resumed.lightning_module))
    assert memory(resumed) == memory(unbroken)
    assert [(f.code, f.count, f.steps()) for f in Journal.of(resumed).findings] == [("LT997", 12, "x12, steps 1-23")]


KILLED = """
import os, signal, sys
import lightning.pytorch as pl
from tests.contracts.test_resume import checkpoints, fit, watched
from tests.helpers import Mlp
from pathlib import Path

class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGKILL)

fit(Mlp, [*watched(), Kill(), checkpoints(Path(sys.argv[1]))])
"""


def test_killed_in_mid_epoch(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = max(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    assert last.name == "step=13.ckpt"
    bare, resumed = fit(Mlp, [], last), fit(Mlp, watched(), last)
    assert_identical(state(bare, bare.lightning_module), state(resumed, resumed.lightning_module))
    (finding,) = Journal.of(resumed).findings
    assert (finding.step, finding.code) == (1, "LT997")
    assert finding.count == sum(step % 2 for step in range(1, resumed.global_step + 1))


def test_a_checkpoint_without_our_state_is_taken(tmp_path: Path) -> None:
    fit(Mlp, [checkpoints(tmp_path)])
    resumed = fit(Mlp, watched(), tmp_path / "step=8.ckpt")
    assert resumed.global_step == 3 * STEPS_PER_EPOCH


def test_our_state_does_not_disturb_bare_lightning(tmp_path: Path) -> None:
    fit(Mlp, [*watched(), checkpoints(tmp_path)])
    assert fit(Mlp, [], tmp_path / "step=8.ckpt").global_step == 3 * STEPS_PER_EPOCH


def test_a_members_state_is_found_again_outside_the_suite(tmp_path: Path) -> None:
    fit(Mlp, [TuningSuite(), checkpoints(tmp_path)])
    monitor = GradientExplosionMonitor()
    saved = torch.load(tmp_path / "step=8.ckpt", weights_only=True)["lightning_tuning"]["GradientExplosionMonitor"]

    class Look(pl.Callback):
        seen: Any = None

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.seen = monitor.tuning_state()

    look = Look()
    fit(Mlp, [monitor, look], tmp_path / "step=8.ckpt")
    assert look.seen == saved
    assert len(saved["judges"][0]["norms"]) == 8
