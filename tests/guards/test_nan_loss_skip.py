"""``NanLossGuard(action="skip")``: the batch never happened."""

from __future__ import annotations

import functools
import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning import Journal, NanLossGuard, TuningError
from tests.guards.faulty import FaultyBN, FaultyGAN, FaultyMlp, Witness, everything, same
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")

OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01),
    "adamw-fused": functools.partial(torch.optim.AdamW, lr=0.01, fused=True),
    "adamw-foreach": functools.partial(torch.optim.AdamW, lr=0.01, foreach=True),
}


def fit(
    model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any
) -> tuple[NanLossGuard, pl.Trainer, Witness]:
    guard = next((c for c in callbacks if isinstance(c, NanLossGuard)), None) or NanLossGuard(action="skip")
    witness = Witness()
    trainer = quiet_trainer(callbacks=[guard, *(c for c in callbacks if c is not guard), witness], **settings)
    trainer.fit(model)
    return guard, trainer, witness


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fault", ["sample", "nan", "inf", "log", "gradient"])
def test_nothing_of_the_bad_batch_remains(optimizer: str, fault: str) -> None:
    model = FaultyMlp({0: fault, 3: fault}, optimizer=OPTIMIZERS[optimizer], batches=6)
    guard, trainer, witness = fit(model)
    assert witness.changed == [False, True, True, False, True, True]
    assert guard.skipped == 2
    absent = FaultyMlp(without=(0, 3), optimizer=OPTIMIZERS[optimizer], batches=6)
    other = quiet_trainer()
    other.fit(absent)
    assert same(everything(model, trainer.optimizers), everything(absent, other.optimizers))
    for name in ("train_loss_epoch", "worst", "val_loss"):
        assert torch.equal(trainer.callback_metrics[name], other.callback_metrics[name]), name


@pytest.mark.parametrize("bad", [(0,), (3,), (5,), (0, 1)])
def test_batch_norm_and_metrics_are_put_back(bad: tuple[int, ...]) -> None:
    model = FaultyBN(dict.fromkeys(bad, "sample"), batches=6)
    _, trainer, witness = fit(model, max_epochs=2)
    assert witness.changed == 2 * [i not in bad for i in range(6)]
    absent = FaultyBN(without=bad, batches=6)
    other = quiet_trainer(max_epochs=2)
    other.fit(absent)
    assert same(everything(model, trainer.optimizers), everything(absent, other.optimizers))
    for name in ("train_loss_epoch", "worst", "accuracy_epoch", "precision", "recall", "val_acc"):
        assert torch.equal(trainer.callback_metrics[name], other.callback_metrics[name]), name


def test_the_step_itself_is_logged_as_it_was() -> None:
    _, trainer, witness = fit(FaultyMlp({2: "sample"}, batches=4))
    assert [math.isnan(logged["train_loss_step"]) for logged in witness.logged] == [False, False, True, False]
    assert math.isfinite(trainer.callback_metrics["train_loss"])


def test_early_stopping_that_checks_for_nan_does_not_stop() -> None:
    stopper = EarlyStopping("train_loss_epoch", check_finite=True, patience=10, check_on_train_epoch_end=True)
    _, trainer, _ = fit(FaultyMlp({2: "sample"}, batches=4), stopper, max_epochs=3)
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(("bad", "dropped"), [((0,), {0}), ((1,), {0}), ((2,), {0}), ((3, 4), {1}), ((6,), {2})])
@pytest.mark.parametrize("fault", ["sample", "gradient", "nan"])
def test_accumulation_drops_the_window(bad: tuple[int, ...], dropped: set[int], fault: str) -> None:
    model = FaultyMlp(dict.fromkeys(bad, fault), batches=7)
    guard, trainer, _ = fit(model, accumulate_grad_batches=3)
    assert guard.skipped == len(dropped)
    without = tuple(i for i in range(7) if i // 3 in dropped)
    absent = FaultyMlp(without=without, batches=7)
    other = quiet_trainer(accumulate_grad_batches=3)
    other.fit(absent)
    assert same(everything(model, trainer.optimizers), everything(absent, other.optimizers))
    finding = Journal.of(trainer).findings[0]
    assert finding.evidence["batch_idx"] == bad[-1]
    assert finding.count == len(bad)


def test_accumulation_keeps_metrics_of_healthy_batches() -> None:
    model = FaultyBN({1: "sample"}, batches=4)
    _, trainer, witness = fit(model, accumulate_grad_batches=2)
    assert witness.changed == [True, False, True, True]
    assert model.net[1].num_batches_tracked == 3
    assert all(torch.isfinite(value).all() for value in trainer.callback_metrics.values())


@pytest.mark.parametrize(("fault", "stepped"), [("d", (False, False)), ("g", (True, False))])
def test_manual_optimization_drops_the_rest_of_the_batch(fault: str, stepped: tuple[bool, bool]) -> None:
    model = FaultyGAN({2: fault}, batches=4)
    guard, trainer, witness = fit(model)
    assert witness.changed == [True, True, any(stepped), True]
    assert guard.skipped == 1
    counts = [int(next(iter(optimizer.state.values()))["step"]) for optimizer in trainer.optimizers]
    assert counts == [3 + took for took in stepped]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert torch.isfinite(trainer.callback_metrics["loss_d_epoch"])
    assert torch.isfinite(trainer.callback_metrics["loss_g_epoch"])


class ManualAccumulation(FaultyMlp):
    """Steps by hand at every second batch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def test_manual_accumulation_drops_what_was_accumulated() -> None:
    model = ManualAccumulation(faults={2: "sample"}, batches=6)
    guard, _, witness = fit(model)
    assert witness.changed == [False, True, False, True, False, True]
    assert guard.skipped == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping(algorithm: str) -> None:
    _, _, witness = fit(FaultyMlp({1: "sample"}, batches=3), gradient_clip_val=0.5, gradient_clip_algorithm=algorithm)
    assert witness.changed == [True, False, True]


class Scheduled(FaultyMlp):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def test_step_scheduler_goes_on() -> None:
    _, trainer, _ = fit(Scheduled({1: "sample"}, batches=4))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5**4
    assert trainer.global_step == 4


def test_gives_up_after_too_many_in_a_row() -> None:
    guard = NanLossGuard(action="skip", max_skips=2)
    model = FaultyMlp(dict.fromkeys((1, 3, 4, 6, 7, 8), "sample"), batches=10)
    with pytest.raises(TuningError, match="given up after 2 skipped in a row") as error:
        fit(model, guard)
    assert guard.skipped == 5
    assert error.value.finding.code == "LT701"
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_gives_up_on_a_gan_whose_other_half_is_healthy() -> None:
    with pytest.raises(TuningError, match="in a row"):
        fit(FaultyGAN(dict.fromkeys(range(8), "g")), NanLossGuard(action="skip", max_skips=2))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")  # once in a process
def test_a_step_without_a_loss_is_nothing_bad() -> None:
    guard, trainer, _ = fit(FaultyMlp({1: "none"}, batches=3))
    assert guard.skipped == 0
    assert Journal.of(trainer).findings == []


def test_every_batch_of_an_epoch_is_bad() -> None:
    model = FaultyBN(dict.fromkeys(range(3), "sample"), batches=3)
    guard, trainer, witness = fit(model)
    assert guard.skipped == 3
    assert witness.changed == [False] * 3
    assert "accuracy_epoch" not in trainer.callback_metrics


def test_counts_go_on_after_a_resume(tmp_path: Any) -> None:
    guard, trainer, _ = fit(FaultyMlp({1: "sample", 3: "sample"}, batches=4))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = NanLossGuard(action="skip")
    resumed = quiet_trainer(callbacks=[again], max_epochs=2)
    resumed.fit(FaultyMlp({1: "sample"}, batches=4), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert (guard.skipped, again.skipped) == (2, 3)
    assert sum(finding.count for finding in Journal.of(resumed).findings) == 3
    assert Journal.of(resumed).notes[-1] == "NanLossGuard dropped 3 of 8 updates"


def test_lbfgs_is_refused() -> None:
    model = FaultyMlp(optimizer=torch.optim.LBFGS)
    for action in ("skip", "stop"):
        with pytest.raises(MisconfigurationException, match="LBFGS"):
            fit(model, NanLossGuard(action=action))
    with pytest.raises(TuningError, match="raised before the update"):
        fit(FaultyMlp({0: "sample"}, optimizer=torch.optim.LBFGS), NanLossGuard())


def test_buffers_that_a_step_replaces_or_adds() -> None:
    class Moving(FaultyMlp):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("later", None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
                if self.later is None:
                    self.later = x.mean(0)
            return super().forward(x)

    model = Moving(faults={0: "sample"}, batches=2)
    fit(model)
    assert torch.isfinite(model.mean).all()
    assert torch.isfinite(model.later).all()


def test_on_finding_raise_raises_for_a_skip_too() -> None:
    guard = NanLossGuard(action="skip")
    trainer = quiet_trainer(callbacks=[guard])
    Journal.of(trainer).configure(on_finding="raise")
    with pytest.raises(TuningError):
        trainer.fit(FaultyMlp({1: "sample"}))


def test_second_fit_starts_to_count_anew() -> None:
    guard, trainer, _ = fit(FaultyMlp({1: "sample"}))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(FaultyMlp())
    assert guard.skipped == 0
