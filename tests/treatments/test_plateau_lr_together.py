"""PlateauLR beside what else a run has: early stopping, rate monitors, finders, special modes of the Trainer, ranks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner

from lightning_tuning.findings import Finding, Journal, TuningWarning
from lightning_tuning.treatments import PlateauLR
from tests.helpers import quiet_trainer
from tests.treatments.plateau_script import BATCHES, Scripted, per_epoch


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module)
    return trainer


def found(trainer: pl.Trainer) -> list[Finding]:
    return Journal.of(trainer).findings


class TestRules:
    @pytest.mark.parametrize(("metric", "mode"), [("val_acc", "min"), ("val_loss", "max")])
    def test_the_wrong_mode(self, metric: str, mode: Any) -> None:
        with pytest.warns(TuningWarning, match=r"LT505 plateau-mode"):
            trainer = fit(Scripted(per_epoch([1.0]), metric=metric), PlateauLR(metric, mode=mode))
        (finding,) = found(trainer)
        assert (finding.code, finding.where, finding.count) == ("LT505", f"PlateauLR({metric})", 1)
        assert finding.evidence["mode"] == mode

    def test_the_wrong_mode_of_early_stopping(self) -> None:
        with pytest.warns(TuningWarning, match=r"EarlyStopping\(monitor='val_acc', mode='min'\)"):
            fit(Scripted(per_epoch([1.0]), metric="val_acc"), EarlyStopping("val_acc"), PlateauLR("scripted_train"))

    def test_two_opinions_on_one_metric(self) -> None:
        stopper = EarlyStopping("score", mode="max", patience=30)
        with pytest.warns(TuningWarning, match="PlateauLR waits for score to fall"):
            fit(Scripted(per_epoch([1.0]), metric="score"), stopper, PlateauLR("score"))

    def test_observed_direction(self) -> None:
        class Learning(Scripted):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                return super().training_step(batch, batch_idx) + 1 / (1 + self.global_step)

        rising = per_epoch([i / 10 for i in range(10)])
        with pytest.warns(TuningWarning, match=r"score rose from 0 to 0.* while the run learns"):
            trainer = fit(Learning(rising, metric="score"), PlateauLR("score"), max_epochs=10)
        assert [str(finding.severity) for finding in found(trainer)] == ["warning"]
        assert not found(fit(Learning(rising, metric="score"), PlateauLR("score", mode="max"), max_epochs=10))

    def test_a_negative_metric(self, tmp_path: Path) -> None:
        module = Scripted(per_epoch([-1.0]), metric="nll")
        saver = ModelCheckpoint(tmp_path, filename="a")
        with pytest.warns(TuningWarning, match=r"LT506 .*nll is -1") as caught:
            trainer = fit(module, PlateauLR("nll", patience=0), saver, max_epochs=4, enable_checkpointing=True)
        assert len([warning for warning in caught if warning.category is TuningWarning]) == 1
        assert [finding.code for finding in found(trainer)] == ["LT506"]
        assert module.rate == 1.0  # as the finding says
        absolute = Scripted(per_epoch([-1.0]), metric="nll")
        assert not found(fit(absolute, PlateauLR("nll", patience=0, threshold_mode="abs"), max_epochs=4))
        assert absolute.rate == 0.125

    @pytest.mark.parametrize(
        ("stopping", "patience", "settings", "fires"),
        [
            (3, 5, {}, True),
            (4, 3, {}, True),  # both act on the same reading
            (5, 3, {}, False),
            (10, 3, {"val_check_interval": 0.5}, False),
            (9, 3, {"val_check_interval": 0.5}, True),
            (5, 3, {"check_val_every_n_epoch": 2}, False),
            (4, 3, {"check_val_every_n_epoch": 2}, True),
        ],
    )
    def test_early_stopping_comes_first(
        self, stopping: int, patience: int, settings: dict[str, Any], fires: bool
    ) -> None:
        """The verdict, and that it is true of a flat metric: no step is made at a lower rate, or there is one."""
        module = Scripted(per_epoch([1.0]))
        callbacks = [EarlyStopping("val_loss", patience=stopping), PlateauLR("val_loss", patience=patience)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TuningWarning)
            trainer = fit(module, *callbacks, max_epochs=40, **settings)
        assert [finding.code for finding in found(trainer)] == (["LT507"] if fires else [])
        assert (min(module.lrs.values()) == 1.0) == fires

    def test_other_metrics_are_left_alone(self) -> None:
        assert not found(
            fit(Scripted(per_epoch([1.0])), EarlyStopping("scripted_train", patience=1), PlateauLR("val_loss"))
        )


def test_every_validation_shares_its_unit_with_early_stopping() -> None:
    module = Scripted(per_epoch([1.0]))
    plateau = PlateauLR("val_loss", patience=1, interval="validation")
    trainer = fit(module, EarlyStopping("val_loss", patience=4), plateau, max_epochs=9, val_check_interval=0.5)
    assert not found(trainer)
    assert module.lrs == {0: 1.0, 1: 1.0, 2: 0.5}


def test_rates_are_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    callbacks = [LearningRateMonitor("epoch"), PlateauLR("val_loss", patience=0)]
    fit(Scripted(per_epoch([1.0])), *callbacks, logger=logger, max_epochs=4)
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("lr-SGD")
    assert [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]] == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 2}, 1),
        ({"overfit_batches": 1, "max_epochs": 3}, 3),
        ({"max_epochs": 3, "num_sanity_val_steps": 0}, 3),
        ({"max_epochs": 3, "num_sanity_val_steps": -1}, 3),
        ({"max_epochs": 3, "limit_train_batches": 2}, 3),
        ({"max_epochs": 3, "accumulate_grad_batches": 3}, 3),
        ({"max_epochs": 3, "precision": "bf16-mixed"}, 3),
        ({"max_epochs": 3, "inference_mode": False}, 3),
    ],
)
def test_modes_of_the_trainer(settings: dict[str, Any], epochs: int) -> None:
    module = Scripted(per_epoch([1.0]))
    fit(module, PlateauLR("val_loss", patience=0), **settings)
    assert [*module.lrs.values()] == [1.0, 1.0, 0.5][:epochs]


def test_a_run_cut_short_takes_no_step() -> None:
    module = Scripted(per_epoch([1.0]))
    fit(module, PlateauLR("val_loss", patience=0), max_epochs=None, max_steps=3 * BATCHES - 1)
    assert module.lrs == {0: 1.0, 1: 1.0, 2: 0.5}
    assert module.rate == 0.5


class Sought(Scripted):
    """Has a rate that Lightning's finder can set."""

    lr = 1.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Rates(pl.Callback):
    """The rate at the start of each epoch; a finder puts other callbacks in its place while it sweeps."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_learning_rate_finder() -> None:
    module, rates = Sought(per_epoch([1.0])), Rates()
    finder = LearningRateFinder(min_lr=1e-3, max_lr=1.0, num_training_steps=20)
    fit(module, finder, PlateauLR("val_loss", patience=0), rates, max_epochs=3)
    assert rates.seen == pytest.approx([module.lr, module.lr, module.lr / 2])


def test_tuner() -> None:
    module, rates = Sought(per_epoch([1.0])), Rates()
    trainer = quiet_trainer(callbacks=[PlateauLR("val_loss", patience=0), rates], max_epochs=3)
    Tuner(trainer).lr_find(module, min_lr=1e-3, max_lr=1.0, num_training=20)
    assert "configure_optimizers" not in vars(module)
    rates.seen.clear()
    trainer.fit(module)
    assert rates.seen == pytest.approx([module.lr, module.lr, module.lr / 2])


class Ranked(Scripted):
    """Each rank reads its own value; they are put together until the fourth epoch."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch < 3:
            self.log("val_loss", 1.0 + self.global_rank, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.current_epoch >= 3:
            self.log("val_loss", 1.0 + self.global_rank)

    def on_train_epoch_end(self) -> None:
        Path(f"rank{self.global_rank}").write_text(repr([*self.lrs.values()]))


@pytest.mark.filterwarnings("ignore")  # the ranks' own, on devices, workers and logging without sync_dist
def test_two_ranks() -> None:
    trainer = quiet_trainer(
        callbacks=[PlateauLR("val_loss", patience=0)],
        strategy="ddp_spawn",
        devices=2,
        max_epochs=5,
        num_sanity_val_steps=0,
    )
    with pytest.raises(Exception, match=r"the ranks read different values.*sync_dist=True"):
        trainer.fit(Ranked(per_epoch([1.0])))
    # Equal readings, equal rates; a rate of its own is no rank allowed to have.
    assert Path("rank0").read_text() == Path("rank1").read_text() == "[1.0, 1.0, 0.5, 0.25]"
