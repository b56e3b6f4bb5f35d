"""Averages of the weights (EMA, SWA) beside a guard that skips or goes back: they keep nothing of what was undone."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn

from lightning_tuning import Journal, NanLossGuard
from tests.guards.faulty import FaultyBN
from tests.guards.test_nan_loss_rollback import BreaksItself, guard_of, is_finite, records
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")

ORDERS = ("guard first", "average first")


def fit(model: pl.LightningModule, average: Any, order: str, action: str = "rollback", **settings: Any) -> pl.Trainer:
    guard = NanLossGuard(action, snapshot_every_n_steps=4)
    callbacks = [guard, average] if order == "guard first" else [average, guard]
    trainer = quiet_trainer(callbacks=callbacks, **settings)
    trainer.fit(model)
    return trainer


class Averages(EMAWeightAveraging):
    """Notes what the average was after every batch."""

    def __init__(self) -> None:
        super().__init__(decay=0.9)
        self.starts: dict[int, dict[str, Any]] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        state = self._average_model.state_dict()
        self.starts[trainer.global_step] = {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_ema_of_a_bad_batch(action: str, order: str) -> None:
    model, average = FaultyBN({6: "sample"}, batches=10), Averages()
    trainer = fit(model, average, order, action)
    assert is_finite(average._average_model)
    assert is_finite(model)
    assert trainer.callbacks.index(average) > trainer.callbacks.index(guard_of(trainer))
    if action == "rollback":  # one average over the weights it went back to, one after the batch that follows
        assert average.starts[8]["n_averaged"] == average.starts[4]["n_averaged"] + 2
    assert "val_loss" in trainer.callback_metrics


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("when", [6, 9])
def test_ema_of_broken_weights(order: str, when: int) -> None:
    """The average took them in before anybody could see; the last batch's are found at the epoch's end."""
    model, average = BreaksItself(when, batches=10), Averages()
    trainer = fit(model, average, order, max_epochs=2)
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT703"]
    assert len(records(trainer)) == 1
    assert is_finite(average._average_model)
    assert is_finite(model)


def broken_average(model: nn.Module, average: StochasticWeightAveraging) -> bool:
    return not (is_finite(model) and all(p.isfinite().all() for p in average._average_model.parameters()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_swa(action: str, order: str) -> None:
    """Also in its last epoch, which renews batch norm under the averaged weights: they are not taken back."""
    average = StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)
    averaged: list[torch.Tensor] = []

    class Watches(FaultyBN):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.current_epoch == 3 and not averaged:
                averaged.extend(p.detach().clone() for p in self.parameters())

    model = Watches({3: "sample"}, batches=6)
    trainer = fit(model, average, order, action, max_epochs=3)
    assert not broken_average(model, average)
    assert len(averaged) > 0
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), averaged, strict=True))
    assert model.net[1].num_batches_tracked == 5
    if action == "rollback":
        assert len(records(trainer)) == 3
        assert "given up" not in "".join(Journal.of(trainer).notes)


def test_swa_rates_are_cut_before_and_after_its_start() -> None:
    def rates(bad_epochs: tuple[int, ...]) -> list[float]:
        seen = []

        class Watches(FaultyBN):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                self.faults = {2: "nan"} if self.trainer.current_epoch in bad_epochs else {}
                seen.append(self.optimizers().param_groups[0]["lr"])

        average = StochasticWeightAveraging(0.04, swa_epoch_start=3, annealing_epochs=3, annealing_strategy="linear")
        fit(Watches(batches=4), average, "guard first", max_epochs=5)
        return seen

    plain, cut = rates(()), rates((1, 3))
    assert plain[0] == 0.1
    assert plain[-1] == pytest.approx(0.04)
    factors = 7 * [1.0] + 8 * [0.5] + 9 * [0.25]  # SWA begins with the ninth batch
    assert cut == pytest.approx([factor * rate for factor, rate in zip(factors, plain, strict=True)], rel=1e-9)
