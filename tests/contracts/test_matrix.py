"""What every callback has to bear, found by discovery: a new callback is in these tables by being there."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import Tensor

from lightning_tuning import (
    DropoutBNConflictWarning,
    Journal,
    LossSpikeGuard,
    NanLossGuard,
    PlateauLR,
    ScheduleLR,
    Severity,
    StabilityProbe,
    TuningSuite,
    UpdateMonitor,
    WeightInitCallback,
)
from lightning_tuning.runtime import Desk
from tests.contracts.discovery import CALLBACKS, make
from tests.contracts.runs import RUNS, Wide
from tests.helpers import Mlp, quiet_trainer

every_callback = pytest.mark.parametrize("name", CALLBACKS)

WAYS: dict[str, Callable[[], pl.Callback]] = {
    **{name: functools.partial(make, name) for name in CALLBACKS},
    "DropoutBNConflictWarning that disables": lambda: DropoutBNConflictWarning("disable"),
    "LossSpikeGuard that stops": lambda: LossSpikeGuard("stop"),
    "LossSpikeGuard that warns": lambda: LossSpikeGuard("warn"),
    "NanLossGuard that skips": lambda: NanLossGuard("skip"),
    "NanLossGuard that stops": lambda: NanLossGuard("stop"),
    "NanLossGuard that goes back": lambda: NanLossGuard("rollback", snapshot_every_n_steps=2),
    "PlateauLR by validation": lambda: PlateauLR("val_loss", interval="validation"),
    "ScheduleLR with a schedule": lambda: ScheduleLR("StepLR", {"step_size": 3, "gamma": 0.9}, warmup=2),
    "StabilityProbe at every step": lambda: StabilityProbe(1),
    "UpdateMonitor at every step": lambda: UpdateMonitor(1),
    "TuningSuite that raises": lambda: TuningSuite(on_finding="raise"),
    "WeightInitCallback that needs no batch": lambda: WeightInitCallback("he"),
    "WeightInitCallback with all it can": lambda: WeightInitCallback("lsuv", residual="zero", head_bias="prior"),
}
"""Each with its defaults, and those whose arguments make them go another way."""

every_way = pytest.mark.parametrize("way", WAYS)


def desks(trainer: pl.Trainer) -> list[Desk]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Desk)]


def assert_healthy(trainer: pl.Trainer, model: pl.LightningModule, steps: int) -> None:
    """It trained as far as it should, to finite weights, and nothing is wrong with it."""
    assert trainer.state.finished
    assert trainer.global_step == steps
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert len(desks(trainer)) == 1
    journal = Journal.of(trainer)
    assert [finding.text() for finding in journal.findings if finding.severity >= Severity.WARNING] == []
    json.dumps([finding.to_dict() for finding in journal.findings])
    assert all(isinstance(note, str) for note in journal.notes)


def fit(model: pl.LightningModule, steps: int, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=[*callbacks, *settings.pop("callbacks", ())], **settings)
    trainer.fit(model)
    assert_healthy(trainer, model, steps)
    return trainer


@every_callback
def test_alone(name: str) -> None:
    fit(Mlp(), 8, make(name))


@every_way
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.filterwarnings("ignore:.* If this was on purpose, ignore this warning:UserWarning")  # it was
# Lightning steps any scheduler after a batch that made no step; of a module's own it says the same in these runs.
@pytest.mark.filterwarnings(r"ignore:Detected call of `lr_scheduler.step\(\)` before:UserWarning")
def test_odd_runs(way: str, run: str) -> None:
    if way == "PlateauLR" and "leaves epoch 0" in run:
        # No validation in that epoch, so no metric: Lightning refuses a ReduceLROnPlateau of the user's own there too.
        with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="val_loss"):
            fit(RUNS[run].model(), RUNS[run].steps, WAYS[way](), **RUNS[run].settings())
        return
    fit(RUNS[run].model(), RUNS[run].steps, WAYS[way](), **RUNS[run].settings())


@every_callback
def test_fit_again_with_the_same_trainer_and_with_a_new_one(name: str) -> None:
    callback, model = make(name), Mlp()
    trainer = fit(model, 8, callback)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model)
    assert_healthy(trainer, model, 16)
    assert desks(fit(model, 8, callback)) != desks(trainer)


@every_callback
def test_fit_again_with_another_architecture(name: str) -> None:
    callback = make(name)
    for model in (Mlp(), Wide(), Mlp()):
        fit(model, 8, callback)


@every_callback
def test_a_list_of_callbacks_may_be_used_twice(name: str) -> None:
    callbacks: list[pl.Callback] = [make(name)]
    for _ in range(2):
        trainer, model = quiet_trainer(callbacks=callbacks), Mlp()
        trainer.fit(model)
        assert_healthy(trainer, model, 8)


@every_callback
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_only(name: str, stage: str) -> None:
    model, before = Mlp(), Mlp().state_dict()
    trainer = quiet_trainer(callbacks=[make(name)])
    getattr(trainer, stage)(model, **({} if stage == "predict" else {"verbose": False}))
    assert_healthy(trainer, model, 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@every_callback
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"logger": False}, 8),
        ({"fast_dev_run": True}, 1),
        ({"overfit_batches": 2}, 2),
        ({"limit_train_batches": 1}, 1),
        ({"max_steps": 0}, 0),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
@pytest.mark.filterwarnings("ignore:.*overfit_batches.*:UserWarning")  # Lightning on turning shuffling off
def test_special_runs(name: str, settings: dict[str, Any], steps: int) -> None:
    fit(Mlp(), steps, make(name), **settings)


@every_callback
@pytest.mark.filterwarnings("ignore:.*barebones.*")  # Lightning warns at every self.log
def test_barebones(name: str) -> None:
    # Plateau needs a metric, and barebones logs none: refused clearly there.
    if name == "PlateauLR":
        with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="val_loss"):
            fit(Mlp(), 8, make(name), barebones=True)
        return
    fit(Mlp(), 8, make(name), barebones=True)


@every_callback
def test_with_the_learning_rate_finder_as_callback(name: str) -> None:
    fit(Mlp(), 8, make(name), LearningRateFinder(num_training_steps=6, early_stop_threshold=None))


@every_callback
def test_with_the_tuner(name: str) -> None:
    model, trainer = Mlp(), quiet_trainer(callbacks=[make(name)])
    Tuner(trainer).lr_find(model, num_training=6, early_stop_threshold=None)
    trainer.fit(model)
    assert_healthy(trainer, model, 8)


@every_callback
def test_pickled_before_and_after_fit(name: str) -> None:
    callback = pickle.loads(pickle.dumps(make(name)))
    fit(Mlp(), 8, callback)
    fit(Mlp(), 8, pickle.loads(pickle.dumps(callback)))


@every_callback
def test_the_trainer_is_pickled_after_fit(name: str) -> None:
    """As a bare one may be; its callbacks go on with a new trainer."""
    again = pickle.loads(pickle.dumps(fit(Mlp(), 8, make(name))))
    assert again.global_step == 8
    (callback,) = (callback for callback in again.callbacks if isinstance(callback, CALLBACKS[name]))
    fit(Mlp(), 8, callback)


class Fails(Mlp):
    """The user's own mistake, in one of the hooks."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.hook = hook

    def fail(self, hook: str) -> None:
        if hook == self.hook:
            raise RuntimeError(f"a mistake in {hook}")

    def prepare_data(self) -> None:
        self.fail("prepare_data")

    def setup(self, stage: str) -> None:
        self.fail("setup")

    def configure_model(self) -> None:
        self.fail("configure_model")

    def configure_optimizers(self) -> Any:
        self.fail("configure_optimizers")
        return super().configure_optimizers()

    def on_train_start(self) -> None:
        self.fail("on_train_start")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.fail("validation_step")
        super().validation_step(batch, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.fail(f"training_step {batch_idx}")
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.fail("on_before_optimizer_step")


MISTAKES = ("prepare_data", "setup", "configure_model", "configure_optimizers", "on_train_start", "validation_step")
MISTAKES += ("training_step 0", "training_step 3", "on_before_optimizer_step")


@every_way
@pytest.mark.parametrize("hook", MISTAKES)
def test_the_users_own_error_comes_through(way: str, hook: str) -> None:
    """On a callback that was used before, on a fresh trainer; and the callback is as good as new after it."""
    callback = WAYS[way]()
    fit(Mlp(), 8, callback)
    with pytest.raises(RuntimeError, match=f"a mistake in {hook}"):
        quiet_trainer(callbacks=[callback]).fit(Fails(hook))
    fit(Mlp(), 8, callback)


@pytest.fixture
def _keep_sigint() -> Iterator[None]:
    """Lightning ignores the signal for good once it was interrupted."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


class Interrupted(Mlp):
    """Somebody presses Ctrl-C in a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == self.at:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)


@every_callback
@pytest.mark.usefixtures("_keep_sigint")
@pytest.mark.parametrize("at", [0, 4])
def test_interrupted_by_the_keyboard(name: str, at: int) -> None:
    callback, model = make(name), Interrupted(at)
    trainer = quiet_trainer(callbacks=[callback])
    with pytest.raises(SystemExit):
        trainer.fit(model)
    assert trainer.interrupted
    assert trainer.global_step == (at if name != "LRRangeTest" else 0)  # its sweep sees that batch before the run does
    fit(Mlp(), 8, callback)


@every_callback
def test_state_survives_weights_only_loading(name: str, tmp_path: Path) -> None:
    trainer = fit(Mlp(), 8, make(name))
    path = tmp_path / "end.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert "desk" in checkpoint["lightning_tuning"]
    resumed, model = quiet_trainer(callbacks=[make(name)], max_epochs=2), Mlp()
    resumed.fit(model, ckpt_path=path)
    assert_healthy(resumed, model, 16)


@every_callback
def test_every_argument_is_documented(name: str) -> None:
    kind = CALLBACKS[name]
    document = inspect.getdoc(kind) or ""
    for parameter in inspect.signature(kind.__init__).parameters:
        is_documented = parameter in ("self", "args", "kwargs") or f"{parameter}:" in document
        assert is_documented, f"{name}: {parameter} is not documented"
    assert "Example:" in document
