"""What every guard and treatment has to bear beyond the matrix, found by discovery: a new one is here by being there.

Two ranks are ``test_ranks.py``; alone, odd runs and errors are ``test_matrix.py``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_tuning import LossSpikeGuard, NanLossGuard, PlateauLR
from lightning_tuning.runtime import CHECKPOINT_KEY, TuningCallback
from tests.contracts.discovery import CALLBACKS, make
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import Mlp, quiet_trainer

ROOMS = ("guards", "treatments")
TREATMENTS = {name: kind for name, kind in CALLBACKS.items() if kind.__module__.split(".")[1] in ROOMS}

Make = Callable[[], TuningCallback]
MAKERS: dict[str, Make] = {
    **{name: functools.partial(make, name) for name in TREATMENTS},
    # With arguments that make them act in a run as healthy as this one.
    "LossSpikeGuard, often": lambda: LossSpikeGuard("warn", factor=1.01, patience=1, window=40),
    "NanLossGuard, rollback": lambda: NanLossGuard("rollback", snapshot_every_n_steps=3),
    "NanLossGuard, skip": lambda: NanLossGuard("skip"),
    "PlateauLR, cutting": lambda: PlateauLR("val_loss", patience=0, threshold=0.9, factor=0.7),
    "PlateauLR, by validation": lambda: PlateauLR("val_loss", patience=0, threshold=0.9, interval="validation"),
}

every_one = pytest.mark.parametrize("name", MAKERS)

OF_ONE_FIT = {
    # Keys of a state that name the very fit, which a resumed run is not.
    "WeightInitCallback": {"fit"},
}

OF_ONE_CHECKPOINT = {
    # Whose state is made when a checkpoint is written, and acted upon when it is read: it is never given back.
    "PlateauLR",
}


def kind_of(name: str) -> str:
    return name.partition(",")[0]


def fit(
    callbacks: list[Any], model: pl.LightningModule | None = None, path: Path | None = None, **settings: Any
) -> Any:
    pl.seed_everything(3, verbose=False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=saves, **settings)
    trainer.fit(Mlp() if model is None else model, ckpt_path=path)
    return trainer


def outcome(trainer: pl.Trainer) -> dict[str, Any]:
    return {
        "weights": dict(trainer.lightning_module.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }


def lasting(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in OF_ONE_FIT.get(kind_of(name), ())}


def saved(path: Path, name: str) -> dict[str, Any]:
    """What a checkpoint holds of the run and of one callback."""
    content = torch.load(path, weights_only=True)
    return {
        "weights": dict(content["state_dict"]),
        "optimizers": content["optimizer_states"],
        "schedulers": content["lr_schedulers"],
        "state": lasting(content[CHECKPOINT_KEY].get(kind_of(name), {}), name),
        "step": content["global_step"],
    }


class Reseeds(pl.Callback):
    """Checkpoints hold no state of the random number generators: whoever draws needs the same one in each step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        torch.manual_seed(trainer.global_step)


@every_one
@pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")  # to keep both runs' checkpoints
def test_resumed_in_the_middle_it_ends_like_the_unbroken_run(name: str, tmp_path: Path) -> None:
    """From the end of an epoch; inside of one Lightning itself begins the epoch's batches again."""

    def boundary(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)

    unbroken = fit([MAKERS[name](), Reseeds(), boundary("unbroken")], max_epochs=4)
    middle = tmp_path / "unbroken" / "epoch=1.ckpt"
    resumed = fit([MAKERS[name](), Reseeds(), boundary("resumed")], path=middle, max_epochs=4)
    assert_identical(outcome(unbroken), outcome(resumed))
    for epoch in (2, 3):
        one, other = (saved(tmp_path / folder / f"epoch={epoch}.ckpt", name) for folder in ("unbroken", "resumed"))
        assert_identical(one, other)
    assert one["step"] == 32


class ByHand(Mlp):
    """Manual optimization with one optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


WAYS: dict[str, tuple[Callable[[], pl.LightningModule], dict[str, Any], int]] = {
    "automatic": (Mlp, {}, 8),
    "manual": (ByHand, {}, 8),
    "accumulation": (Mlp, {"accumulate_grad_batches": 2}, 4),
    "bf16-mixed": (Mlp, {"precision": "bf16-mixed"}, 8),
}

REFUSED: dict[tuple[str, str], tuple[str, str]] = {
    # (callback, way): what the refusal says, and why it cannot be done.
    ("LRRangeTest", "manual"): ("manual optimization", "the module steps its optimizers itself"),
}


@pytest.mark.parametrize("way", WAYS)
@every_one
def test_every_way_to_train_ends_well_or_is_refused(name: str, way: str) -> None:
    model, settings, steps = WAYS[way]
    if (kind_of(name), way) in REFUSED:
        with pytest.raises(MisconfigurationException, match=REFUSED[kind_of(name), way][0]):
            fit([MAKERS[name]()], model(), **settings)
        return
    trainer = fit([MAKERS[name]()], model(), **settings)
    assert trainer.state.finished
    assert trainer.global_step == steps
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.lightning_module.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in trainer.lightning_module.parameters())


@every_one
def test_used_again_it_does_what_a_fresh_one_does(name: str) -> None:
    used = MAKERS[name]()
    first = outcome(fit([used], max_epochs=2))
    again, fresh = outcome(fit([used], max_epochs=2)), outcome(fit([MAKERS[name]()], max_epochs=2))
    assert_identical(first, fresh)
    assert_identical(again, fresh)


class Look(pl.Callback):
    """Sees a callback's state after the last batch."""

    def __init__(self, callback: TuningCallback) -> None:
        self.callback = callback

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state = self.callback.tuning_state()


@pytest.mark.parametrize("name", [name for name in MAKERS if kind_of(name) not in OF_ONE_CHECKPOINT])
def test_its_state_makes_the_round_trip(name: str) -> None:
    """Through a file that ``torch.load(weights_only=True)`` takes, into a fresh instance."""
    callback = MAKERS[name]()
    look = Look(callback)
    fit([callback, look], max_epochs=2)
    file = io.BytesIO()
    torch.save(look.state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert_identical(state, look.state)
    fresh = MAKERS[name]()
    if state:  # an empty one is not stored
        fresh.load_tuning_state(state)
    assert_identical(lasting(fresh.tuning_state(), name), lasting(state, name))


def test_exceptions_are_of_those_who_exist() -> None:
    assert {name for name, _ in REFUSED} | set(OF_ONE_FIT) | OF_ONE_CHECKPOINT <= set(TREATMENTS)
    assert {way for _, way in REFUSED} <= set(WAYS)
    assert {kind_of(name) for name in MAKERS} == set(TREATMENTS)
