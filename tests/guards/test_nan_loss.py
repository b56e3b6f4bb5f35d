"""``NanLossGuard``: what it finds, ``"raise"`` and ``"stop"``, and that a healthy run is left alone."""

from __future__ import annotations

import pickle
import random
import re
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data import DataLoader

from lightning_tuning import Finding, Journal, NanLossGuard, TuningError, TuningWarning
from tests.guards.faulty import FaultyBN, FaultyGAN, FaultyMlp, everything, same
from tests.helpers import MODEL_KINDS, DropoutNet, Mlp, TinyModule, quiet_trainer

ACTIONS = ("raise", "skip", "stop")


def found(trainer: pl.Trainer) -> list[Finding]:
    return Journal.of(trainer).findings


def raised(model: pl.LightningModule, guard: NanLossGuard | None = None, **settings: Any) -> Finding:
    """The finding that a fit with a raising guard ends with; the weights are healthy after it."""
    trainer = quiet_trainer(callbacks=[guard or NanLossGuard()], **settings)
    with pytest.raises(TuningError) as error:
        trainer.fit(model)
    assert found(trainer) == [error.value.finding]
    return error.value.finding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "ignore"}, "`action` must be one of"),
        ({"action": None}, "`action` must be one of"),
        ({"max_skips": 0}, "`max_skips` must be .* got 0"),
        ({"max_skips": 2.5}, "`max_skips` must be .* got 2.5"),
        ({"max_skips": True}, "`max_skips` must be .* got True"),
        ({"replay": 3}, "`replay` must be .* got 3"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NanLossGuard(**arguments)


@pytest.mark.parametrize("kind", MODEL_KINDS)
@pytest.mark.parametrize("action", ACTIONS)
def test_healthy_run_is_the_same_bit_for_bit(kind: type[TinyModule], action: str) -> None:
    ends = []
    for callbacks in ([], [NanLossGuard(action=action)]):
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        model, trainer = kind(batches=10), quiet_trainer(callbacks=callbacks, max_epochs=2)
        trainer.fit(model)
        rng = [torch.get_rng_state(), list(random.getstate()[1]), np.random.get_state()[1].tolist()]
        metrics = dict(trainer.callback_metrics)
        ends.append([everything(model, trainer.optimizers), rng, metrics])
        assert found(trainer) == []
        assert Journal.of(trainer).notes == []
    assert same(*ends)


@pytest.mark.parametrize(
    ("fault", "code", "cause"),
    [
        ("sample", "LT701", "bad-sample"),
        ("log", "LT701", "log-of-zero"),
        ("nan", "LT701", "constant"),
        ("inf", "LT701", "constant"),
        ("gradient", "LT702", "norm-at-zero"),
    ],
)
def test_raise_names_the_cause_and_keeps_the_weights(fault: str, code: str, cause: str) -> None:
    model = FaultyBN({3: fault}, batches=6)
    finding = raised(model)
    assert (finding.code, finding.evidence["cause"]) == (code, cause)
    assert (finding.step, finding.evidence["step"], finding.evidence["batch_idx"]) == (3, 3, 3)
    assert finding.severity == 3
    assert "raised before the update" in finding.message
    assert len(finding.evidence["grad_norms_before"].split(", ")) == 3
    absent = FaultyBN(without=(3, 4, 5), batches=6)
    quiet_trainer().fit(absent)
    assert same(dict(model.state_dict()), dict(absent.state_dict()))


def test_bad_sample_is_named_with_key_and_index() -> None:
    finding = raised(FaultyMlp({2: "sample"}))
    assert finding.where == "batch[0]"
    assert finding.evidence["sample"] == 5
    assert "batch[0] holds NaN in sample 5" in finding.message


def test_source_line_and_value_are_named() -> None:
    finding = raised(FaultyMlp({2: "log"}))
    assert re.search(r"faulty\.py:\d+$", finding.source_line)
    assert "log of 0.0" in finding.message
    assert "clamp_min" in finding.remedy


def test_module_is_named() -> None:
    class Exponential(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 1e4).exp()

    model = Mlp()
    model.net.insert(2, Exponential())
    finding = raised(model)
    assert finding.where == "net.2"
    assert finding.evidence["cause"] == "exp-overflow"


@pytest.mark.parametrize("replay", [True, False])
def test_without_replay_the_sample_is_still_named(replay: bool) -> None:
    finding = raised(FaultyMlp({1: "sample"}), NanLossGuard(replay=replay))
    assert (finding.where, finding.evidence["sample"]) == ("batch[0]", 5)
    finding = raised(FaultyMlp({1: "log"}), NanLossGuard(replay=replay))
    assert finding.evidence["cause"] == ("log-of-zero" if replay else "unknown")


def test_replay_sees_the_same_dropout_mask() -> None:
    class Unlucky(DropoutNet):
        """Divides by the sum of a dropout mask, which is 0 for some masks only."""

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            mask = F.dropout(torch.ones(2), 0.5)
            return super().training_step(batch, batch_idx) + 0 * (1 / mask.sum())

    for seed in range(3):
        torch.manual_seed(seed)
        assert raised(Unlucky(batches=60)).evidence["cause"] == "division-by-zero"


def test_only_the_first_three_are_replayed() -> None:
    guard = NanLossGuard(action="skip")
    trainer = quiet_trainer(callbacks=[guard])
    with pytest.warns(TuningWarning):
        trainer.fit(FaultyMlp(dict.fromkeys((0, 2, 4, 6), "log")))
    assert [(finding.evidence["cause"], finding.count) for finding in found(trainer)] == [("log-of-zero", 4)]


def test_a_step_that_cannot_be_replayed_says_so() -> None:
    class Once(FaultyMlp):
        calls = 0

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            type(self).calls += 1
            if self.calls > 3:
                raise RuntimeError("no more")
            return super().training_step(batch, batch_idx)

    finding = raised(Once({2: "log"}))
    assert "no more" in finding.evidence["blind"]


def test_norm_of_finite_gradients_that_overflows_is_no_alarm() -> None:
    class Huge(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * 1e30

    trainer = quiet_trainer(callbacks=[NanLossGuard()], max_steps=1)
    trainer.fit(Huge(lr=1e-30))
    assert found(trainer) == []


def test_growing_gradients_are_shown() -> None:
    class Growing(FaultyMlp):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * (1e39 if batch_idx == 6 else 100.0**batch_idx if batch_idx > 3 else 1.0)

    finding = raised(Growing(lr=1e-20))
    assert finding.evidence["cause"] == "exploding-gradient"
    assert "gradients grew before" in finding.message
    assert "clip" in finding.remedy


# -- weights -----------------------------------------------------------------------------------------------------------


def broken(model: TinyModule) -> TinyModule:
    with torch.no_grad():
        model.net[0].weight[1, 2] = float("inf")
    return model


@pytest.mark.parametrize("action", ["raise", "skip"])
def test_weights_broken_before_the_first_step(action: str) -> None:
    finding = raised(broken(Mlp()), NanLossGuard(action=action))
    assert (finding.code, finding.where, finding.step) == ("LT703", "net.0.weight", 0)
    assert "before the first step" in finding.message


@pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")
def test_stop_ends_a_run_with_broken_weights_before_its_first_step() -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard(action="stop")], min_epochs=3, max_epochs=5)
    trainer.fit(broken(Mlp()))
    assert [finding.code for finding in found(trainer)] == ["LT703"]
    assert trainer.global_step == 0
    assert trainer.fit_loop.min_epochs == 3


class BreaksItself(FaultyMlp):
    """An update of its own makes a weight NaN after batch ``when``."""

    def __init__(self, when: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.when = when

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.when:
            broken(self)


@pytest.mark.parametrize("action", ["raise", "skip"])
def test_weights_broken_in_between_are_not_blamed_on_the_batch(action: str) -> None:
    finding = raised(BreaksItself(2, batches=6), NanLossGuard(action=action))
    assert (finding.code, finding.where, finding.evidence["step"]) == (
        "LT703",
        "net.0.weight",
        3,
    )
    assert "before batch 3" in finding.message


def test_weights_broken_by_the_last_update_are_found_before_they_are_saved(tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1)
    trainer = quiet_trainer(callbacks=[NanLossGuard(), checkpoint], enable_checkpointing=True, max_epochs=2)
    with pytest.raises(TuningError, match="at the end of epoch 0"):
        trainer.fit(BreaksItself(7, batches=8))
    assert list(tmp_path.iterdir()) == []


def test_lazy_modules_are_waited_for() -> None:
    model = Mlp()
    model.net = torch.nn.Sequential(torch.nn.LazyLinear(3))
    trainer = quiet_trainer(callbacks=[NanLossGuard()])
    trainer.fit(model)
    assert found(trainer) == []


# -- stop --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")
@pytest.mark.parametrize("minimum", [{}, {"min_epochs": 3}, {"min_steps": 20}])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stop_ends_at_once_in_good_order(minimum: dict[str, int], accumulate: int, tmp_path: Any) -> None:
    model = FaultyBN({4: "sample"}, batches=6)
    checkpoint = ModelCheckpoint(dirpath=tmp_path)
    trainer = quiet_trainer(
        callbacks=[NanLossGuard(action="stop"), checkpoint],
        enable_checkpointing=True,
        max_epochs=5,
        accumulate_grad_batches=accumulate,
        **minimum,
    )
    trainer.fit(model)
    absent = FaultyBN(without=(4, 5), batches=6)
    quiet_trainer(accumulate_grad_batches=accumulate).fit(absent)
    assert same(dict(model.state_dict()), dict(absent.state_dict()))
    assert trainer.current_epoch == 1
    assert "val_loss" in trainer.callback_metrics
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in saved.values())
    assert trainer.fit_loop.min_epochs == minimum.get("min_epochs", trainer.fit_loop.min_epochs)
    assert trainer.fit_loop.epoch_loop.min_steps == minimum.get("min_steps")
    assert "stopped the run at step" in Journal.of(trainer).notes[0]


# -- elsewhere ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore:.*fit\\(ckpt_path=:UserWarning"
)  # Lightning's, of the checkpoint that is not there yet
def test_checkpoint_of_the_exception_is_healthy(tmp_path: Any) -> None:
    saver = OnExceptionCheckpoint(tmp_path, "last")
    trainer = quiet_trainer(callbacks=[NanLossGuard(), saver], enable_checkpointing=True)
    with pytest.raises(TuningError):
        trainer.fit(FaultyBN({3: "sample"}))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_manual_optimization_raises() -> None:
    assert raised(FaultyGAN({1: "g"})).code == "LT701"


def test_batch_that_is_none_and_metrics_logged_by_nobody() -> None:
    class Gaps(Mlp):
        def train_dataloader(self) -> DataLoader[Any]:
            items = list(super().train_dataloader())
            return DataLoader([items[0], None, items[1]], batch_size=None, collate_fn=lambda item: item)

    trainer = quiet_trainer(callbacks=[NanLossGuard(action="skip")])
    with pytest.warns(UserWarning, match="yielded None"):
        trainer.fit(Gaps())
    assert found(trainer) == []


def test_step_outside_of_a_batch() -> None:
    class AtTheEnd(FaultyGAN):
        def on_train_epoch_end(self) -> None:
            optimizer = self.optimizers()[0]
            optimizer.zero_grad()
            self.manual_backward(self(torch.ones(4, 8)).mean() * float("nan"))
            optimizer.step()

    model = AtTheEnd(batches=2)
    finding = raised(model)
    assert finding.code == "LT701"
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("settings", [{"fast_dev_run": 2}, {"overfit_batches": 2}, {"barebones": True}])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but:UserWarning")
@pytest.mark.filterwarnings("ignore:.*overfit.*:UserWarning")
def test_modes_of_the_trainer(settings: dict[str, Any]) -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard(action="skip")], **settings)
    trainer.fit(Mlp())
    assert found(trainer) == []


def test_validate_test_and_predict_need_no_fit() -> None:
    model, guard = Mlp(), NanLossGuard()
    quiet_trainer(callbacks=[guard]).validate(model, verbose=False)
    quiet_trainer(callbacks=[guard]).test(model, verbose=False)
    quiet_trainer(callbacks=[guard]).predict(model)


def test_pickles_with_its_settings() -> None:
    guard = NanLossGuard(action="skip", max_skips=3)
    quiet_trainer(callbacks=[guard]).fit(Mlp(batches=2))
    copy = pickle.loads(pickle.dumps(guard))
    assert (copy.action, copy.max_skips, copy.skipped) == ("skip", 3, 0)


class Masked(Mlp):
    """A frozen parameter holds what a mask holds, -inf, and never reaches the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.nn.Parameter(torch.full((4, 4), -torch.inf).triu(1), requires_grad=False)


def test_a_frozen_mask_of_minus_infinity_is_no_broken_weight() -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard()])
    trainer.fit(Masked())
    assert trainer.global_step == 8
    assert Journal.of(trainer).findings == []
