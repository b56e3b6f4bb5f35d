from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler

from lightning_tuning import Finding, Journal, PenaltyMonitor, Severity
from lightning_tuning.runtime import Desk
from tests.cases.lt411_penalty_dominates import Penalized
from tests.helpers import MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer


@pytest.fixture(autouse=True)
def _hear_nothing() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs are sick on purpose
        yield


def fitted(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[*callbacks], **{"max_epochs": 8, **settings})
    trainer.fit(model)
    return trainer


def found(trainer: pl.Trainer) -> list[Finding]:
    return [finding for finding in Journal.of(trainer).findings if finding.code == "LT411"]


class Shares:
    """A logger that remembers the shares of the penalty, and the penalty as the module itself knows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logged: list[tuple[int, float]] = []

        def log(_: Any, metrics: dict[str, float], step: int | None = None) -> None:
            if "tuning/penalty_share" in metrics and step is not None:
                self.logged.append((step, metrics["tuning/penalty_share"]))

        monkeypatch.setattr(CSVLogger, "log_metrics", log)


class Told(Penalized):
    """Writes down the true share in each step."""

    def __init__(self, coefficient: float) -> None:
        super().__init__(coefficient)
        self.shares: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        error = F.cross_entropy(self(batch[0]), batch[1])
        penalty = self.coefficient * sum(p.abs().sum() for p in self.net.parameters())
        self.shares.append(float((penalty / (error + penalty)).detach()))
        return error + penalty


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}], ids=["plain", "accumulated"])
def test_the_share_is_the_true_one(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    shares, model = Shares(monkeypatch), Told(0.01)
    fitted(model, PenaltyMonitor(), logger=CSVLogger(tmp_path), **settings)
    per_step = settings.get("accumulate_grad_batches", 1)
    assert 3 <= len(shares.logged) <= 10
    for step, share in shares.logged[1:]:
        near = model.shares[step * per_step : (step + 1) * per_step]
        assert min(abs(share - true) for true in near) < 1e-5


def test_a_penalty_that_dominates_is_a_warning_with_its_line() -> None:
    (finding,) = found(fitted(Penalized(0.1), PenaltyMonitor()))
    assert finding.severity is Severity.WARNING
    assert finding.source_line is not None
    assert "lt411_penalty_dominates.py:" in finding.source_line


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=64.0))]},
        {"accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 60},
    ],
    ids=["bf16", "double", "scaler", "accumulated", "steps"],
)
def test_it_is_seen_in_every_precision(settings: dict[str, Any]) -> None:
    assert len(found(fitted(Penalized(0.1), PenaltyMonitor(), **settings))) == 1


def test_it_is_seen_in_a_compiled_net() -> None:
    model = Penalized(0.1)
    model.net = torch.compile(model.net, backend="eager")
    assert len(found(fitted(model, PenaltyMonitor()))) == 1


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_without_a_penalty_nothing_is_watched(kind: type[TinyModule]) -> None:
    trainer = fitted(kind(), PenaltyMonitor(), max_epochs=1)
    assert Journal.of(trainer).findings == []
    assert Desk.of(trainer)._watchers.hooks == []
    assert Journal.of(trainer).notes == []


def test_weight_decay_of_the_optimizer_is_no_penalty() -> None:
    class Decayed(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=1.0)

    assert found(fitted(Decayed(), PenaltyMonitor())) == []


def test_manual_optimization_is_left_alone() -> None:
    class Penalty(ManualGAN):
        def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            super().manual_backward(loss + 10 * sum(p.norm() for p in self.parameters()), *args, **kwargs)

    assert found(fitted(Penalty(), PenaltyMonitor(), max_epochs=3)) == []


def test_batches_without_a_loss_are_passed_over() -> None:
    class Holes(Penalized):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            return None if batch_idx % 3 else super().training_step(batch, batch_idx)

    assert len(found(fitted(Holes(0.1), PenaltyMonitor(), max_epochs=20))) == 1


def test_the_step_is_recorded_ten_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []
    asked = Desk.request_trace
    monkeypatch.setattr(Desk, "request_trace", lambda self, *args: requests.append(1) or asked(self, *args))
    monitor = PenaltyMonitor(readings=5)
    fitted(Penalized(0.01), monitor, max_epochs=30)
    assert 1 + 3 <= len(requests) <= 1 + 5


def test_a_resumed_run_goes_on(tmp_path: Any) -> None:
    monitor = PenaltyMonitor()
    trainer = fitted(Penalized(0.1), monitor, limit_train_batches=2, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert found(trainer) == []
    resumed = quiet_trainer(callbacks=[PenaltyMonitor()], max_epochs=8)
    resumed.fit(Penalized(0.1), ckpt_path=tmp_path / "a.ckpt")
    (finding,) = found(resumed)
    assert finding.evidence["since"] < 2


@pytest.mark.parametrize("value", [2, 0, 3.5, True, None])
def test_bad_arguments_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match=f"`readings` must be a whole number of at least 3, got {value}"):
        PenaltyMonitor(value)
