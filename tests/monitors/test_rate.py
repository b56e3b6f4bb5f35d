from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from lightning_tuning import Finding, Journal, OptimizerCheck, PlateauLR, RateMonitor, ScheduleCheck, Severity
from lightning_tuning.runtime import Desk
from tests.cases._optimized import Optimized
from tests.cases.lt508_constant_rate_at_plateau import EPOCHS, Line
from tests.cases.lt509_destructive_fine_tuning import Pretrained
from tests.helpers import MODEL_KINDS, BNConvNet, ManualGAN, Mlp, TinyModule, quiet_trainer


@pytest.fixture(autouse=True)
def _hear_nothing() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs are sick on purpose
        yield


def fitted(model: pl.LightningModule, *callbacks: pl.Callback, fit: Any = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[*callbacks], **settings)
    trainer.fit(model, **(fit or {}))
    return trainer


def found(trainer: pl.Trainer, code: str) -> list[Finding]:
    return [finding for finding in Journal.of(trainer).findings if finding.code == code]


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_healthy_runs_are_quiet(kind: type[TinyModule]) -> None:
    assert Journal.of(fitted(kind(batches=20), RateMonitor(), max_epochs=5)).findings == []


class ByHand(Optimized):
    """From step ``begin`` on the rate is what a hand sets."""

    def __init__(self, lr: float, begin: int = 40, *, at_first: float = 1e-3) -> None:
        super().__init__(lambda net: torch.optim.Adam(net.parameters(), lr=at_first), batches=50)
        self.set, self.begin = lr, begin

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == self.begin:
            for group in self.optimizers().param_groups:
                group["lr"] = self.set


def test_a_rate_that_breaks_the_run_is_a_warning() -> None:
    (finding,) = found(fitted(ByHand(1e4), RateMonitor(), max_epochs=6), "LT408")
    assert finding.severity is Severity.WARNING
    assert finding.step == 60


def test_one_that_the_run_bears_is_an_info() -> None:
    (finding,) = found(fitted(ByHand(0.02), RateMonitor(), max_epochs=6), "LT408")
    assert finding.severity is Severity.INFO


def test_a_rate_on_a_device_or_in_a_tensor() -> None:
    class InTensor(ByHand):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=torch.tensor(0.05))

    assert len(found(fitted(InTensor(0.05), RateMonitor(), max_epochs=2), "LT408")) == 1


def test_what_is_wrong_from_the_start_is_not_said_twice() -> None:
    trainer = fitted(ByHand(0.05, at_first=0.05), OptimizerCheck(), RateMonitor(), max_epochs=4)
    (finding,) = found(trainer, "LT408")
    assert finding.count == 3
    assert "step" not in finding.message
    (alone,) = found(fitted(ByHand(0.05, at_first=0.05), RateMonitor(), max_epochs=4), "LT408")
    assert "at step" in alone.message


def test_a_decay_that_the_schedule_check_has_seen_is_not_said_twice() -> None:
    def decayed(net: nn.Module) -> Any:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 30, 1e-2), "interval": "step"}}

    alone = fitted(Optimized(decayed, batches=50), RateMonitor(), max_epochs=6)
    both = fitted(Optimized(decayed, batches=50), ScheduleCheck(), RateMonitor(), max_epochs=6)
    assert [f.code for f in Journal.of(alone).findings] == ["LT408"]
    assert [f.code for f in Journal.of(both).findings] == ["LT504"]


class Planned(Line):
    """The noisy line, with another schedule, or optimizer."""

    def __init__(self, make: Any) -> None:
        super().__init__(decays=False)
        self.make = make

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        made = self.make(optimizer)
        if isinstance(made, LRScheduler | dict):
            return {"optimizer": optimizer, "lr_scheduler": made}
        return made


def plateaus(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> list[Finding]:
    return found(fitted(model, RateMonitor(), *callbacks, **{"max_epochs": EPOCHS, **settings}), "LT508")


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: optimizer,
        lambda optimizer: ConstantLR(optimizer, 0.1, 1),
        lambda optimizer: LambdaLR(optimizer, lambda epoch: min(1.0, (epoch + 1) / 2)),
        lambda optimizer: StepLR(optimizer, 100),
    ],
    ids=["no schedule", "constant", "warm-up alone", "beyond the run"],
)
def test_a_constant_rate_at_a_plateau(make: Any) -> None:
    (finding,) = plateaus(Planned(make))
    assert finding.severity is Severity.INFO
    assert finding.evidence["metric"] == "val_loss"


def test_early_stopping_is_no_excuse() -> None:
    assert len(plateaus(Line(decays=False), EarlyStopping("val_loss", patience=10))) == 1


class Overridden(Planned):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()


@pytest.mark.parametrize(
    "model",
    [
        lambda: Line(decays=True),
        lambda: Planned(lambda optimizer: StepLR(optimizer, EPOCHS - 1)),
        lambda: Planned(lambda o: {"scheduler": ReduceLROnPlateau(o, patience=100), "monitor": "val_loss"}),
        lambda: Planned(lambda optimizer: CosineAnnealingLR(optimizer, 10 * EPOCHS)),
        lambda: Overridden(lambda optimizer: StepLR(optimizer, 100)),
        lambda: Planned(lambda o: torch.optim.Adagrad(o.param_groups[0]["params"], lr=0.05)),
    ],
    ids=["cosine", "step to come", "plateau scheduler", "slow cosine", "steps by itself", "divides by itself"],
)
def test_a_rate_that_comes_down(model: Any) -> None:
    assert plateaus(model()) == []


def test_who_else_takes_it_down() -> None:
    assert plateaus(Line(decays=False), PlateauLR("val_loss", patience=50)) == []
    assert plateaus(Line(decays=False), StochasticWeightAveraging(1e-2, swa_epoch_start=0.9)) == []


def test_short_runs_have_no_plateau() -> None:
    assert plateaus(Line(decays=False), limit_train_batches=8) == []
    assert plateaus(Line(decays=False), max_epochs=4) == []
    assert plateaus(Line(decays=False), limit_val_batches=0) == []


def test_validations_within_an_epoch_count() -> None:
    assert len(plateaus(Line(decays=False), max_epochs=6, val_check_interval=16)) == 1


def test_without_a_metric_that_is_known() -> None:
    class Named(Line):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_reward_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    assert plateaus(Named(decays=False)) == []


class PretrainedBackbone(BNConvNet):
    """Trained batch norms under a new head; at step 100 the rate is raised beyond all bounds, or is not."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(lr=0.02, batches=40)
        self.factor = factor
        for name, buffer in self.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(1000)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 100:
            for group in self.optimizers().param_groups:
                group["lr"] *= self.factor


def test_a_trained_backbone_is_known_by_its_statistics() -> None:
    class Known(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.known = monitor._tuning.is_pretrained

    known, monitor = Known(), RateMonitor()
    fitted(PretrainedBackbone(), monitor, known)
    assert known.known
    monitor = RateMonitor()
    fitted(BNConvNet(), monitor, known)
    assert not known.known


def test_a_backbone_that_is_destroyed_after_its_heads_warm_in() -> None:
    assert found(fitted(PretrainedBackbone(), RateMonitor(), max_epochs=8), "LT509") == []
    (finding,) = found(fitted(PretrainedBackbone(3000.0), RateMonitor(), max_epochs=8), "LT509")
    assert finding.evidence["since"] >= 90
    assert found(fitted(PretrainedBackbone(3000.0), RateMonitor(pretrained=False), max_epochs=8), "LT509") == []


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2, "max_epochs": 8}, {"precision": "bf16-mixed"}])
def test_a_trained_net_that_is_destroyed(settings: dict[str, Any]) -> None:
    (finding,) = found(fitted(Pretrained(1.0), RateMonitor(), **{"max_epochs": 4, **settings}), "LT509")
    assert finding.severity is Severity.WARNING
    assert finding.evidence["baseline"] == pytest.approx(1.0986, abs=1e-3)


def test_a_fresh_net_has_nothing_to_lose() -> None:
    assert found(fitted(Mlp(lr=3.0, batches=20), RateMonitor(), max_epochs=4), "LT509") == []


def test_a_resumed_run_is_no_fine_tuning(tmp_path: Any) -> None:
    trainer = fitted(Pretrained(0.01))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = fitted(Pretrained(1.0), RateMonitor(), fit={"ckpt_path": tmp_path / "a.ckpt"}, max_epochs=5)
    assert found(resumed, "LT509") == []


def test_several_optimizers_are_left_alone() -> None:
    trainer = fitted(ManualGAN(batches=30), RateMonitor(pretrained=True), max_epochs=3)
    assert Journal.of(trainer).findings == []


def test_it_goes_on_after_a_checkpoint(tmp_path: Any) -> None:
    first = fitted(Line(decays=False), RateMonitor(), max_epochs=EPOCHS - 2)
    first.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["lightning_tuning"]["RateMonitor"]
    assert len(saved["plateau"]["metrics"]["val_loss"][3]) == 10
    resumed = fitted(Line(decays=False), RateMonitor(), fit={"ckpt_path": tmp_path / "a.ckpt"}, max_epochs=EPOCHS)
    assert len(found(resumed, "LT508")) == 1
    assert Desk.of(resumed).journal.findings[0].count == 1


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("patience", 0, "a whole number of at least 1"),
        ("patience", 2.5, "a whole number of at least 1"),
        ("every_n_steps", -1, "a whole number of at least 1"),
        ("pretrained", "yes", "True, False or None"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be {allowed}, got {value!r}"):
        RateMonitor(**{argument: value})
