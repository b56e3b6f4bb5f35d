"""``NanLossGuard(measure_stable_lr=True)``: the stable rate of losses whose curvature is known exactly."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tuning import Finding, Journal, NanLossGuard, TuningError
from lightning_tuning.guards import _stable_rate
from tests.contracts.test_bit_identity import assert_identical, everything
from tests.helpers import Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

SHARPNESS = 80.0
STABLE = 2 / SHARPNESS


class Quadratic(pl.LightningModule):
    """The loss ``curvature / 2 * |w|^2`` in two dimensions, of which the second curves a tenth; from ``w = (1, 1)``.

    A step of learning rate lr multiplies the first by ``1 - lr * curvature``.
    """

    def __init__(self, lr: float, *, curvature: float = SHARPNESS, momentum: float = 0.0) -> None:
        super().__init__()
        self.lr, self.curvature, self.momentum = lr, curvature, momentum
        self.weight = nn.Parameter(torch.ones(2))

    def loss(self) -> Tensor:
        return 0.5 * self.curvature * (self.weight.square() * torch.tensor([1.0, 0.1])).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss() * batch[0].mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(64)), batch_size=1)


def ended(model: pl.LightningModule, **settings: Any) -> tuple[Finding, pl.Trainer]:
    guard = NanLossGuard(**{"measure_stable_lr": True, **settings.pop("guard", {})})
    trainer = quiet_trainer(callbacks=[guard], limit_val_batches=0, **settings)
    with pytest.raises(TuningError) as error:
        trainer.fit(model)
    return error.value.finding, trainer


@pytest.mark.parametrize(("momentum", "stable"), [(0.0, STABLE), (0.6, 1.6 * STABLE)])
def test_the_rate_is_named_at_the_weights_of_the_start(momentum: float, stable: float) -> None:
    finding, trainer = ended(Quadratic(12 * stable, momentum=momentum))
    assert (finding.code, finding.evidence["cause"]) == ("LT701", "learning-rate")
    assert finding.evidence["stable_lr"] == pytest.approx(stable, rel=1e-4)
    assert finding.evidence["sharpness"] == pytest.approx(SHARPNESS, rel=1e-4)
    assert finding.evidence["lr"] == pytest.approx(12 * stable)
    assert f"lr={12 * stable:.3g} is 12 x the largest stable one, {stable:.2g}, at the weights of step 0" in (
        finding.message
    )
    assert f"`lr={stable:.2g}` or less" in finding.remedy
    assert torch.isfinite(trainer.lightning_module.weight).all()


def test_without_asking_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stable_rate, "stability_of", None)
    finding, _ = ended(Quadratic(12 * STABLE), guard={"measure_stable_lr": False})
    assert finding.evidence["cause"] == "learning-rate"
    assert "stable_lr" not in finding.evidence


def test_the_last_sound_weights_are_those_of_the_last_epoch() -> None:
    class Later(Quadratic):
        """The curvature rises with the second epoch, from which on steps are too large."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (1.0 if self.current_epoch else 0.01)

    finding, _ = ended(Later(12 * STABLE), max_epochs=2)
    assert finding.evidence["stable_lr"] == pytest.approx(STABLE, rel=1e-4)
    assert "at the weights of step 64" in finding.message


def test_where_the_loss_is_finite_it_is_measured_at_the_weights_of_the_incident() -> None:
    class Quartic(Quadratic):
        """``w^4`` curves by ``12 w^2``. From 1 it goes to -2, 22, -32e3 and 1e14, whose gradient is too large."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.weight[0].double().pow(4)

    model = Quartic(0.75)
    finding, _ = ended(model)
    assert (finding.code, finding.step) == ("LT702", 4)
    assert finding.evidence["sharpness"] == pytest.approx(
        12 * float(model.weight.detach()[0]) ** 2, rel=0.1
    )  # near the end of float32
    assert "at the weights of step" not in finding.message


def test_a_rate_that_is_stable_is_not_blamed() -> None:
    class Outlier(Quadratic):
        """Two batches throw the weights to where the loss overflows."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx) * (1e3 if batch_idx in (4, 5) else 1.0)
            return loss * 1e38 if self.weight.detach().abs().max() > 100 else loss

    finding, trainer = ended(Outlier(0.1 * STABLE))
    assert finding.evidence["cause"] == "exploding-gradient"
    assert "stable one" not in finding.message
    assert "stable_lr" not in finding.evidence
    (note,) = (note for note in Journal.of(trainer).notes if "stable" in note)
    assert "measured the largest stable learning rate of the batch at step 6, 0.025" in note
    assert "the run had 0.0025" in note


def test_other_causes_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Logarithm(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss + (0 * loss.detach()).log() if batch_idx == 3 else loss

    monkeypatch.setattr(_stable_rate, "stability_of", None)
    assert ended(Logarithm())[0].evidence["cause"] == "log-of-zero"


def test_where_nothing_can_be_measured_the_summary_says_why() -> None:
    class Averaged(Quadratic):
        def configure_optimizers(self) -> Any:
            return torch.optim.ASGD(self.parameters(), lr=self.lr, lambd=0.0)

    finding, trainer = ended(Averaged(12 * STABLE))
    assert finding.evidence["cause"] == "exploding-gradient"
    assert "stable_lr" not in finding.evidence
    assert any("no bound on the curvature is known for the steps of ASGD" in n for n in Journal.of(trainer).notes)


def test_a_run_that_skips_ends_the_same_bit_for_bit() -> None:
    ends = []
    for measures in (False, True):
        torch.manual_seed(3)
        trainer = quiet_trainer(callbacks=[NanLossGuard("rollback", measure_stable_lr=measures)], limit_val_batches=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(model := Quadratic(12 * STABLE))
        ends.append(everything(trainer, model))
        told = [finding.evidence for finding in Journal.of(trainer).findings if finding.code == "LT701"]
        assert all(("stable_lr" in evidence) == measures for evidence in told)
        assert told
    assert_identical(*ends)


def test_broken_weights() -> None:
    class Breaks(Quadratic):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                with torch.no_grad():
                    self.weight.fill_(torch.nan)

    finding, _ = ended(Breaks(4 * STABLE))
    assert finding.code == "LT703"
    assert finding.evidence["stable_lr"] == pytest.approx(STABLE, rel=1e-4)
    assert f"{STABLE:.2g}" in finding.remedy


def test_bad_argument() -> None:
    with pytest.raises(ValueError, match=r"`measure_stable_lr` must be True or False, got 1"):
        NanLossGuard(measure_stable_lr=1)  # type: ignore[arg-type]


class OfARank(Quadratic):
    """Rank 1 curves three times as much as rank 0; the replicas are equal, by the mean gradient."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (1.5 if self.global_rank else 0.5)


class Unwilling(OfARank):
    """Its step talks to the other rank, so that no rank can repeat it alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + 0 * self.all_gather(loss.detach()).clamp(0, 1).sum()


def end_of(rank: int, kind: type[Quadratic]) -> dict[str, Any]:
    trainer = quiet_trainer(
        callbacks=[NanLossGuard(measure_stable_lr=True)], strategy=gloo(), devices=2, limit_val_batches=0
    )
    try:
        trainer.fit(kind(12 * STABLE))
    except TuningError as error:
        return {"finding": error.finding.to_dict(), "notes": Journal.of(trainer).notes}
    return {}


def ends_of(rank: int) -> list[dict[str, Any]]:
    return [end_of(rank, OfARank), end_of(rank, Unwilling)]


def test_two_ranks_take_the_mean_and_do_not_wait_for_each_other() -> None:
    (one, one_blind), (other, other_blind) = on_two_ranks(ends_of)
    assert one["finding"]["evidence"]["stable_lr"] == pytest.approx(STABLE, rel=1e-4)
    assert one["finding"]["evidence"] == other["finding"]["evidence"]
    assert one["finding"]["message"] == other["finding"]["message"]
    assert one_blind["finding"]["message"] == other_blind["finding"]["message"]
    assert "stable_lr" not in one_blind["finding"]["evidence"]
