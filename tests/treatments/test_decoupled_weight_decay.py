from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning import DecoupledWeightDecay, NanLossGuard
from tests.helpers import ManualGAN, Mlp
from tests.treatments.regularized import (
    WAYS,
    ByHand,
    Overflows,
    OverflowsFused,
    WithAdam,
    assert_alike,
    assert_nothing_left_on,
    fit,
    scaled,
)

DECAY = 0.3


class Decays(pl.Callback):
    """After each update, written out."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        names = {id(p): name for name, p in pl_module.named_parameters()}
        for optimizer in trainer.optimizers:
            step = optimizer.step

            def stepped(*args: Any, step: Any = step, optimizer: Any = optimizer, **kwargs: Any) -> Any:
                result = step(*args, **kwargs)
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        if p.grad is not None and not names[id(p)].endswith("bias"):
                            p.data *= 1 - group["lr"] * DECAY
                return result

            optimizer.step = stepped


@pytest.mark.parametrize("way", WAYS)
def test_weights_decay_with_the_rate(way: str) -> None:
    kind, settings = WAYS[way]
    mine, theirs = kind(batches=20), kind(batches=20)
    trainer = fit(mine, DecoupledWeightDecay(DECAY), **settings)
    fit(theirs, Decays(), **settings)
    assert_alike(mine, theirs, rtol=1e-5, atol=1e-6)
    assert_nothing_left_on(trainer)


def test_adam_becomes_adamw() -> None:
    """But for the order of decay and update: a difference of one decay (.003) of one update (.01)."""

    class WithAdamW(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=DECAY)

    mine, theirs, bare = WithAdam(batches=1), WithAdamW(batches=1), WithAdam(batches=1)
    fit(mine, DecoupledWeightDecay(DECAY, exclude=[]))
    fit(theirs)
    fit(bare)
    assert_alike(mine, theirs, atol=4e-5)
    with pytest.raises(AssertionError):
        assert_alike(mine, bare, atol=4e-5)


def test_one_for_each_pattern_and_a_schedule_is_followed() -> None:
    class Scheduled(Mlp):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 4))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Still(Scheduled):
        def on_after_backward(self) -> None:
            for p in self.parameters():
                p.grad.zero_()

    model, before = Still(), Still()
    fit(model, DecoupledWeightDecay(0.5, include="net.0"), DecoupledWeightDecay(1.0, include="net.2.weight"))
    for layer, factor in ((0, 0.95**4), (2, 0.9**4), (4, 1.0)):
        torch.testing.assert_close(model.net[layer].weight, before.net[layer].weight * factor)
        assert torch.equal(model.net[layer].bias, before.net[layer].bias)


@pytest.mark.parametrize("kind", [Overflows, OverflowsFused], ids=["unfused", "fused"])
def test_an_update_that_the_scaler_leaves_out_decays_nothing(kind: Any) -> None:
    fit(kind(), DecoupledWeightDecay(DECAY), **scaled())  # the module asserts it in each batch


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")
def test_an_update_that_a_guard_drops_decays_nothing() -> None:
    class Broken(Mlp):
        def on_after_backward(self) -> None:
            if self.trainer.global_step == 7:  # the last one
                self.net[0].weight.grad[0, 0] = math.nan

    mine, shorter = Broken(), Mlp()
    fit(mine, DecoupledWeightDecay(DECAY), NanLossGuard("skip", replay=False))
    fit(shorter, DecoupledWeightDecay(DECAY), max_steps=7)
    assert_alike(mine, shorter)


def test_decayed_twice_is_refused_unless_asked_for() -> None:
    class Decayed(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    with pytest.raises(MisconfigurationException, match=r"AdamW has weight_decay=0.01 already for net.0.weight"):
        fit(Decayed(), DecoupledWeightDecay(DECAY))
    assert fit(Decayed(), DecoupledWeightDecay(DECAY, on_top=True)).global_step == 8


def test_hooks_are_taken_off_after_an_error() -> None:
    class Fails(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise RuntimeError("own")
            return super().training_step(batch, batch_idx)

    model = Fails()
    decay = DecoupledWeightDecay(DECAY)
    with pytest.raises(RuntimeError, match="own"):
        fit(model, decay)
    assert decay.picked == {}
    assert_nothing_left_on(model.trainer)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("kind", [Mlp, ByHand, ManualGAN])
def test_resumed_it_is_bare_lightning_and_the_decay(kind: Any, tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(kind(), DecoupledWeightDecay(DECAY), saves, max_epochs=3, enable_checkpointing=True)
    mine, theirs = kind(), kind()
    fit(mine, DecoupledWeightDecay(DECAY), max_epochs=3, path=tmp_path / "epoch=0.ckpt")
    fit(theirs, Decays(), max_epochs=3, path=tmp_path / "epoch=0.ckpt")
    assert_alike(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weight_decay": 0.0}, "`weight_decay` must be a number above 0, got 0.0."),
        ({"weight_decay": math.nan}, "`weight_decay` must be a number above 0, got nan."),
        ({"weight_decay": "0.1"}, "`weight_decay` must be a number above 0, got '0.1'."),
        ({"weight_decay": 0.1, "on_top": 1}, "`on_top` must be True or False, got 1."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DecoupledWeightDecay(**arguments)
