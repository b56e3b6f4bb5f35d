"""Resumed from any checkpoint, a run with ScheduleLR is bare Lightning's with the schedule in the module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import lr_scheduler

from lightning_tuning.findings import Journal
from lightning_tuning.functional.schedule_lr import schedule_lr_config
from lightning_tuning.treatments import MomentumSchedule, ScheduleLR
from tests.helpers import Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    # Said of every module that optimizes by hand; here a checkpoint is meant to hold what is after the step.
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps"),
]
EPOCHS, STEPS = 3, 24


class Net(Mlp):
    """With ``schedule``, its own; by hand if it is told so; knows the rate and the momentum of each step."""

    def __init__(self, schedule: Any = None, *, by_hand: bool = False) -> None:
        super().__init__()
        self.schedule = schedule
        self.automatic_optimization = not by_hand
        self.trail: list[tuple[int, float, float]] = []

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return optimizer if self.schedule is None else self.schedule(optimizer)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        group = self.trainer.optimizers[0].param_groups[0]
        self.trail.append((self.global_step, group["lr"], group["momentum"]))


KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "cosine": ("CosineAnnealingLR", {}, {"warmup": 5}),
    "one cycle": ("OneCycleLR", {}, {}),
    "milestones": ("MultiStepLR", {"milestones": [7, 12]}, {"warmup": 0.25}),
    "epochs": ("CosineAnnealingLR", {}, {"warmup": 1, "interval": "epoch"}),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 4}, {"warmup": 3}),
    "cycles": ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 5}, {}),
    "lambda": ("LambdaLR", {"lr_lambda": lambda tick: 1 / (1 + tick)}, {}),
}


def fit(net: Net, *callbacks: pl.Callback, path: str | None = None, **settings: Any) -> pl.Trainer:
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(callbacks=list(callbacks), enable_checkpointing=saves, **{"max_epochs": EPOCHS, **settings})
    trainer.fit(net, ckpt_path=path)
    return trainer


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)


def assert_same(net: Net, other: Net) -> None:
    assert net.trail == other.trail
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_as_bare_lightning_with_the_schedule_in_the_module(kind: str, tmp_path: Path) -> None:
    name, arguments, timing = KINDS[kind]

    def in_module(optimizer: Any) -> Any:
        ticks = EPOCHS if timing.get("interval") == "epoch" else STEPS
        config = schedule_lr_config(optimizer, name, arguments, ticks=ticks, **timing)
        return {"optimizer": optimizer, "lr_scheduler": config}

    unbroken, bare = Net(), Net(in_module)
    fit(unbroken, ScheduleLR(name, arguments, **timing), every_step(tmp_path / "ours"))
    fit(bare, every_step(tmp_path / "bare"))
    assert_same(unbroken, bare)
    for step in (5, 8):  # inside an epoch and at its end
        ours, theirs = Net(), Net(in_module)
        trainer = fit(ours, ScheduleLR(name, arguments, **timing), path=str(tmp_path / f"ours/step={step}.ckpt"))
        fit(theirs, path=str(tmp_path / f"bare/step={step}.ckpt"))
        assert_same(ours, theirs)
        assert len(Journal.of(trainer).notes) == 1
        if step % 8 == 0:
            assert ours.trail == unbroken.trail[step:]


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand_every_checkpoint_goes_on_as_unbroken(kind: str, tmp_path: Path) -> None:
    name, arguments, timing = KINDS[kind]
    unbroken = Net(by_hand=True)
    trainer = fit(unbroken, ScheduleLR(name, arguments, **timing), every_step(tmp_path))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    for step in (8,):
        path = tmp_path / f"step={step}.ckpt"
        assert torch.load(path, weights_only=True)["lr_schedulers"] == []
        net = Net(by_hand=True)
        fit(net, ScheduleLR(name, arguments, **timing), path=str(path))
        assert net.trail == unbroken.trail[step:]
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), unbroken.parameters(), strict=True))
    after, last = (
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["lightning_tuning"]["ScheduleLR"]
        for name in ("after", "step=24")
    )
    assert after == last


def test_by_hand_a_fresh_fit_begins_anew() -> None:
    callback = ScheduleLR("CosineAnnealingLR")
    one, other = Net(by_hand=True), Net(by_hand=True)
    fit(one, callback)
    fit(other, callback)
    assert_same(one, other)


def test_from_inside_an_epoch_by_hand_the_schedule_goes_on(tmp_path: Path) -> None:
    unbroken, net = Net(by_hand=True), Net(by_hand=True)
    fit(unbroken, ScheduleLR("ExponentialLR", {"gamma": 0.9}), every_step(tmp_path))
    fit(net, ScheduleLR("ExponentialLR", {"gamma": 0.9}), path=str(tmp_path / "step=5.ckpt"))
    assert net.trail == unbroken.trail[5:]


def test_another_length_is_said(tmp_path: Path) -> None:
    fit(Net(), ScheduleLR("CosineAnnealingLR", warmup=4), every_step(tmp_path))
    trainer = fit(Net(), ScheduleLR("CosineAnnealingLR", warmup=4), path=str(tmp_path / "step=16.ckpt"), max_epochs=5)
    assert Journal.of(trainer).notes[-1] == (
        "ScheduleLR goes on with the checkpoint's schedule, not with this run's: CosineAnnealingLR.T_max is 20, would "
        "be 36"
    )


MOMENTA: dict[str, dict[str, Any]] = {
    "share": {"over": 0.5},
    "updates": {"over": 13, "shape": "cosine"},
    "default": {},
    "stairs": {"shape": "sutskever"},
}


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("kind", MOMENTA)
def test_momentum_goes_on_as_unbroken(kind: str, by_hand: bool, tmp_path: Path) -> None:
    unbroken = Net(by_hand=by_hand)
    fit(unbroken, MomentumSchedule(**MOMENTA[kind]), every_step(tmp_path))
    for step in (5, 8):
        net = Net(by_hand=by_hand)
        trainer = fit(net, MomentumSchedule(**MOMENTA[kind]), path=str(tmp_path / f"step={step}.ckpt"))
        momenta = [momentum for *_, momentum in unbroken.trail]
        # From inside an epoch Lightning begins it again, and the run is longer than the unbroken one.
        expected = (momenta[step:] + momenta[-1:] * 8)[: len(net.trail)]
        assert [momentum for *_, momentum in net.trail] == expected
        assert len(Journal.of(trainer).notes) == 1
        if step % 8 == 0:
            assert all(torch.equal(a, b) for a, b in zip(net.parameters(), unbroken.parameters(), strict=True))


def both(rank: int) -> dict[str, Any]:
    found = {}
    for by_hand in (False, True):
        net = Net(by_hand=by_hand)
        fit(
            net,
            ScheduleLR("CosineAnnealingLR", warmup=0.25),
            MomentumSchedule(over=0.5),
            strategy=gloo(),
            devices=2,
        )
        found[f"by hand {by_hand}"] = (net.trail, [p.detach() for p in net.parameters()])
    return found


def test_on_two_ranks_the_length_is_that_of_a_rank() -> None:
    one, other = on_two_ranks(both)
    for run, (trail, weights) in one.items():
        assert trail == other[run][0]
        assert len(trail) == STEPS // 2
        assert trail[-1][1] < 1e-8  # the cosine's end, after half the steps
        assert trail[-1][2] == 0.9
        assert all(torch.equal(a, b) for a, b in zip(weights, other[run][1], strict=True))


def test_one_cycle_says_what_lightning_would_say_of_a_longer_run(tmp_path: Path) -> None:
    """The checkpoint's `total_steps` hold, as in bare Lightning; torch refuses the step after them."""
    fit(Net(), ScheduleLR("OneCycleLR"), every_step(tmp_path))
    with pytest.raises(ValueError, match="Tried to step 25 times"):
        fit(Net(), ScheduleLR("OneCycleLR"), path=str(tmp_path / "step=24.ckpt"), max_epochs=5)


def test_the_scheduler_is_torchs_own(tmp_path: Path) -> None:
    trainer = fit(Net(), ScheduleLR("StepLR", {"step_size": 2}))
    (config,) = trainer.lr_scheduler_configs
    assert type(config.scheduler) is lr_scheduler.StepLR
