"""What every callback has to bear, found by discovery: a new callback is in this table by being there."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner

import lightning_tuning
from lightning_tuning.runtime import Desk, TuningCallback
from tests.contracts.discovery import CALLBACKS, make
from tests.helpers import Mlp, quiet_trainer

every_callback = pytest.mark.parametrize("name", CALLBACKS)


class ConstantRate(Mlp):
    """With an attribute for the learning-rate finder to set."""


def finite(model: pl.LightningModule) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def desks(trainer: pl.Trainer) -> list[Desk]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Desk)]


def test_discovery_finds_the_public_ones() -> None:
    public = {name for name in lightning_tuning.__all__ if inspect.isclass(getattr(lightning_tuning, name))}
    assert set(CALLBACKS) == {n for n in public if issubclass(getattr(lightning_tuning, n), TuningCallback)}
    assert len(CALLBACKS) >= 6


@every_callback
def test_alone(name: str) -> None:
    trainer, model = quiet_trainer(callbacks=[make(name)]), Mlp()
    trainer.fit(model)
    assert trainer.global_step == 8
    assert finite(model)
    assert len(desks(trainer)) == 1


@every_callback
def test_fit_again_with_the_same_trainer_and_with_a_new_one(name: str) -> None:
    callback, model = make(name), Mlp()
    trainer = quiet_trainer(callbacks=[callback])
    trainer.fit(model)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model)
    assert trainer.global_step == 16
    assert len(desks(trainer)) == 1
    new = quiet_trainer(callbacks=[callback])
    new.fit(model)
    assert new.global_step == 8
    assert desks(new) != desks(trainer)


@every_callback
def test_a_list_of_callbacks_may_be_used_twice(name: str) -> None:
    callbacks: list[pl.Callback] = [make(name)]
    for _ in range(2):
        trainer = quiet_trainer(callbacks=callbacks)
        trainer.fit(Mlp())
        assert len(desks(trainer)) == 1


@every_callback
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_only(name: str, stage: str) -> None:
    trainer = quiet_trainer(callbacks=[make(name)])
    getattr(trainer, stage)(Mlp(), **({} if stage == "predict" else {"verbose": False}))
    assert trainer.state.finished


@every_callback
@pytest.mark.parametrize(
    "settings",
    [{"logger": False}, {"fast_dev_run": True}, {"overfit_batches": 2}, {"limit_train_batches": 1}, {"max_steps": 0}],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.filterwarnings("ignore:.*overfit_batches.*:UserWarning")  # Lightning on turning shuffling off
def test_special_runs(name: str, settings: dict[str, Any]) -> None:
    trainer = quiet_trainer(callbacks=[make(name)], **settings)
    trainer.fit(Mlp())
    assert trainer.state.finished


@every_callback
@pytest.mark.filterwarnings("ignore:.*barebones.*")  # Lightning warns at every self.log
def test_barebones(name: str) -> None:
    # Plateau needs a metric, and barebones logs none: refused clearly there.
    trainer = quiet_trainer(callbacks=[make(name)], barebones=True)
    if name == "PlateauLR":
        with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="val_loss"):
            trainer.fit(Mlp())
        return
    trainer.fit(Mlp())
    assert trainer.state.finished


@every_callback
def test_with_the_learning_rate_finder_as_callback(name: str) -> None:
    model = Mlp()
    finder = LearningRateFinder(num_training_steps=6, early_stop_threshold=None)
    trainer = quiet_trainer(callbacks=[make(name), finder])
    trainer.fit(model)
    assert trainer.global_step == 8
    assert len(desks(trainer)) == 1


@every_callback
def test_with_the_tuner(name: str) -> None:
    model, trainer = Mlp(), quiet_trainer(callbacks=[make(name)])
    Tuner(trainer).lr_find(model, num_training=6, early_stop_threshold=None)
    trainer.fit(model)
    assert trainer.global_step == 8


@every_callback
def test_pickled_before_and_after_fit(name: str) -> None:
    callback = pickle.loads(pickle.dumps(make(name)))
    trainer = quiet_trainer(callbacks=[callback])
    trainer.fit(Mlp())
    again = pickle.loads(pickle.dumps(callback))
    quiet_trainer(callbacks=[again]).fit(Mlp())


@every_callback
def test_spawned_processes(name: str) -> None:
    quiet_trainer(callbacks=[make(name)], strategy="ddp_spawn", devices=2, max_steps=2).fit(Mlp())


@every_callback
def test_state_survives_weights_only_loading(name: str, tmp_path: Any) -> None:
    trainer = quiet_trainer(callbacks=[make(name)])
    trainer.fit(Mlp())
    path = tmp_path / "end.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert "desk" in checkpoint["lightning_tuning"]
    resumed = quiet_trainer(callbacks=[make(name)], max_epochs=2)
    resumed.fit(Mlp(), ckpt_path=path)
    assert resumed.global_step == 16


@every_callback
def test_every_argument_is_documented(name: str) -> None:
    kind = CALLBACKS[name]
    document = inspect.getdoc(kind) or ""
    for parameter in inspect.signature(kind.__init__).parameters:
        assert parameter in ("self", "kwargs") or f"{parameter}:" in document, f"{name}: {parameter} is not documented"
    assert "Example:" in document
