from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_tuning import ApplyDropout, DropoutSchedule, Journal
from tests.helpers import CLASSES, DropoutNet, ManualGAN, Mlp, TinyModule, quiet_trainer


class Rates(pl.Callback):
    """The rate with which each batch was trained."""

    def __init__(self, setting: str = "p") -> None:
        self.setting, self.seen = setting, []

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(round(getattr(pl_module.net[2], self.setting), 6))


def fit(model: pl.LightningModule, *callbacks: pl.Callback, ckpt_path: Any = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=[*callbacks], **settings)
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


def rates(schedule: DropoutSchedule, **settings: Any) -> list[float]:
    watch, model = Rates(), DropoutNet()
    fit(model, schedule, watch, **settings)
    assert model.net[2].p == 0.3
    return watch.seen


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        ({}, {}, [0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3, 0.3]),
        ({"over": 1.0}, {"max_epochs": 2}, [0.3 * i / 16 for i in range(16)]),
        ({"over": 1.0}, {"max_epochs": -1, "max_steps": 4}, [0, 0.075, 0.15, 0.225]),
        ({"over": 1.0}, {"max_epochs": 9, "max_steps": 4}, [0, 0.075, 0.15, 0.225]),
        ({"start": None, "end": 0.1, "over": 2, "interval": "step"}, {}, [0.3, 0.2] + [0.1] * 6),
        ({"start": 0.1, "end": 0.0, "over": 1, "interval": "epoch", "shape": "step"}, {"max_epochs": 2},
         [0.1] * 8 + [0.0] * 8),
        ({"over": 1.0, "interval": "step"}, {}, [0] + [0.3] * 7),
    ],
)  # fmt: skip
def test_rates_of_each_batch(arguments: dict[str, Any], settings: dict[str, Any], expected: list[float]) -> None:
    assert rates(DropoutSchedule(**arguments), **settings) == pytest.approx(expected)


def test_accumulated_batches_have_rates_of_their_own() -> None:
    seen: list[float] = []

    class Each(pl.Callback):
        def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
            seen.append(pl_module.net[2].p)

    fit(DropoutNet(), DropoutSchedule(over=1.0), Each(), accumulate_grad_batches=2)
    assert seen == pytest.approx([0.3 * i / 8 for i in range(8)])


def test_a_constant_schedule_is_the_bare_run() -> None:
    """Under automatic optimization with bf16 too."""
    for settings in ({}, {"precision": "bf16-mixed"}):
        model, bare = DropoutNet(), DropoutNet()
        fit(model, DropoutSchedule(0.3, 0.3), **settings)
        fit(bare, **settings)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), bare.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_resumed_run_has_the_rates_of_an_unbroken_one(step: int, tmp_path: Path) -> None:
    whole, rest = Rates(), Rates()
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(DropoutNet(), DropoutSchedule(over=1.0), whole, saves, max_epochs=2, enable_checkpointing=True)
    fit(DropoutNet(), DropoutSchedule(over=1.0), rest, max_epochs=2, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert rest.seen == whole.seen[step:]


def test_an_error_puts_the_rate_back_and_a_second_fit_starts_from_it() -> None:
    class Fails(DropoutNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 3:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    schedule, model = DropoutSchedule(), Fails()
    with pytest.raises(RuntimeError, match="mine"):
        fit(model, schedule)
    assert model.net[2].p == 0.3
    assert rates(schedule)[:2] == [0, 0.075]


def test_a_rate_that_somebody_else_sets_is_left_to_them() -> None:
    class Disables(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                pl_module.net[2].p = 0.9

    model, watch = DropoutNet(), Rates()
    fit(model, DropoutSchedule(), watch, Disables())
    assert watch.seen == [0, 0.075] + [0.9] * 6
    assert model.net[2].p == 0.9


class Layered(TinyModule):
    """Recurrent dropout has its rate under another name."""

    shape = (6, 4)

    def build(self) -> nn.Module:
        return nn.ModuleList(
            [nn.Dropout(0.1), nn.Linear(12, CLASSES), nn.LSTM(4, 12, 2, batch_first=True, dropout=0.4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net[1](self.net[2](self.net[0](x))[0][:, -1])


def test_recurrent_dropout_include_and_exclude() -> None:
    watch, inputs = Rates("dropout"), []

    class Inputs(pl.Callback):
        def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            inputs.append(pl_module.net[0].p)

    model = Layered()
    fit(model, DropoutSchedule(exclude="net.0"), watch, Inputs())
    assert watch.seen[:2] == [0, 0.1]
    assert set(inputs) == {0.1}
    assert model.net[2].dropout == 0.4
    with pytest.raises(
        MisconfigurationException, match=r"`include` must mean a dropout, got 'net\.1'; there are: net\.0"
    ):
        fit(model, DropoutSchedule(include="net.1"))


def test_manual_optimization_and_no_dropout() -> None:
    note = "DropoutSchedule moves the rate of 0 dropouts from 0 to their own"
    assert note in Journal.of(fit(ManualGAN(), DropoutSchedule())).notes


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="neither `max_epochs` nor `max_steps` ends this run"):
        fit(DropoutNet(), DropoutSchedule(), max_epochs=-1, max_time={"seconds": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1.0}, r"`start` must be at least 0 and less than 1, got 1\.0\."),
        ({"end": -0.1}, r"`end` must be at least 0 and less than 1, got -0\.1\."),
        ({"start": None}, r"`end` must be a rate where `start` is None, got None: nothing would change\."),
        ({"over": 2.0}, r"`over` must be more than 0 and at most 1 with interval='run', got 2\.0\."),
        ({"over": 0, "interval": "step"}, r"`over` must be a finite number above 0 with interval='step', got 0\."),
        ({"over": float("nan")}, r"`over` must be more than 0 and at most 1 with interval='run', got nan\."),
        ({"interval": "batch"}, r"`interval` must be one of \('run', 'epoch', 'step'\), got 'batch'\."),
        ({"shape": "cubic"}, r"`shape` must be one of \('linear', 'cosine', 'exponential', 'step'\), got 'cubic'\."),
        ({"exclude": [1]}, r"`exclude` must hold globs on dotted names, got 1\."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropoutSchedule(**arguments)


def test_a_dropout_is_applied_scheduled_and_in_no_checkpoint(tmp_path: Path) -> None:
    model = Mlp()
    trainer = fit(model, ApplyDropout(0.4), DropoutSchedule(end=0.2))
    assert "ApplyDropout put p=0.4 in front of net.4" in Journal.of(trainer).notes
    assert "DropoutSchedule moves the rate of 1 dropout from 0 to 0.2" in Journal.of(trainer).notes
    assert model.net[4].inserted_before.p == 0.4
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    bare, resumed = Mlp(), Mlp()
    bare.load_state_dict(torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"])
    fit(resumed, ApplyDropout(0.4), ckpt_path=tmp_path / "end.ckpt", max_epochs=2)
    x = torch.randn(4, 8)
    assert torch.equal(bare.eval()(x), model.eval()(x))
    assert len(resumed.net[4]._forward_pre_hooks) == 1


def test_applied_twice_is_one_dropout_and_a_wrong_glob_is_refused() -> None:
    model, callback = Mlp(), ApplyDropout(0.1, ["net.2", "net.4"])
    fit(model, callback)
    fit(model, callback)
    assert len(model.net[2]._forward_pre_hooks) == 1
    with pytest.raises(MisconfigurationException, match=r"ApplyDropout: `where` must mean a layer, got 'net\.9'"):
        fit(model, ApplyDropout(where="net.9"))
    with pytest.raises(ValueError, match=r"`p` must be at least 0 and less than 1, got 1\."):
        ApplyDropout(1)
