"""ScheduleLR in a fit: the very run that a module with the same scheduler has, however it is resumed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from lightning_tuning import Journal, ScheduleLR, ScheduleLRMixin, TuningSuite
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import Mlp, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")

STEPS = 8  # in an epoch


class Rates(pl.Callback):
    """The rate of each step, as the update used it."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


class Own(Mlp):
    """With a scheduler of its own: ``entry(optimizer)`` is Lightning's dict of it."""

    def __init__(self, entry: Any) -> None:
        super().__init__()
        self.entry = entry

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": self.entry(optimizer)}


class Manual(Mlp):
    """Manual optimization, an update for every ``each`` batches."""

    def __init__(self, each: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.each = each

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
        if (batch_idx + 1) % self.each == 0:
            optimizer.step()
            optimizer.zero_grad()


def fit(module: pl.LightningModule, *callbacks: pl.Callback, path: Path | None = None, **settings: Any) -> list[float]:
    rates = Rates()
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(
        callbacks=[*callbacks, rates], **{"max_epochs": 3, "enable_checkpointing": saves, **settings}
    )
    trainer.fit(module, ckpt_path=path)
    assert "configure_optimizers" not in vars(module)
    return rates.seen


def state(module: pl.LightningModule) -> dict[str, Any]:
    return {"weights": dict(module.state_dict()), "optimizer": module.optimizers().optimizer.state_dict()}  # type: ignore[union-attr]


def by_step(make: Any) -> Any:
    return lambda optimizer: {"scheduler": make(optimizer), "interval": "step"}


TWINS: dict[str, tuple[Any, Any]] = {
    "cosine": (
        lambda: ScheduleLR("CosineAnnealingLR"),
        by_step(lambda o: lr_scheduler.CosineAnnealingLR(o, 3 * STEPS)),
    ),
    "one cycle": (lambda: ScheduleLR("OneCycleLR"), by_step(lambda o: lr_scheduler.OneCycleLR(o, 0.1, 3 * STEPS))),
    "stairs of epochs": (
        lambda: ScheduleLR("StepLR", {"step_size": 1, "gamma": 0.5}, interval="epoch"),
        lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    ),
    "cosine of epochs": (
        lambda: ScheduleLR("CosineAnnealingLR", interval="epoch"),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
    ),
    "warm-up, then a polynomial": (
        lambda: ScheduleLR("PolynomialLR", warmup=0.25, warmup_start=0.1),
        by_step(
            lambda o: lr_scheduler.SequentialLR(
                o,
                [lr_scheduler.LinearLR(o, 0.1, total_iters=6), lr_scheduler.PolynomialLR(o, 18)],
                milestones=[6],
            )
        ),
    ),
}


@pytest.mark.parametrize("twin", TWINS)
def test_the_run_is_that_of_a_module_with_the_same_scheduler(twin: str) -> None:
    make, entry = TWINS[twin]
    ours, theirs = Mlp(), Own(entry)
    assert fit(ours, make()) == fit(theirs)
    assert_identical(state(ours), state(theirs))


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("step", [5, 8, 13, 16])
def test_resumed_it_is_bare_lightnings_resumed(twin: str, step: int, tmp_path: Path) -> None:
    make, entry = TWINS[twin]
    save = functools.partial(ModelCheckpoint, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(Mlp(), make(), save(tmp_path / "ours"))
    fit(Own(entry), save(tmp_path / "theirs"))
    ours, theirs = Mlp(), Own(entry)
    with pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"):
        first = fit(ours, make(), path=tmp_path / "ours" / f"step={step}.ckpt")
    with pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"):
        second = fit(theirs, path=tmp_path / "theirs" / f"step={step}.ckpt")
    assert first == second
    assert_identical(state(ours), state(theirs))


def test_accumulation_counts_updates() -> None:
    rates = fit(Mlp(), ScheduleLR("LinearLR", {"start_factor": 1.0, "end_factor": 0.0}), accumulate_grad_batches=4)
    assert rates == pytest.approx([0.1 * (1 - tick / 6) for tick in range(6)])


def test_max_steps_is_the_length() -> None:
    rates = fit(Mlp(), ScheduleLR("CosineAnnealingLR"), max_steps=5, max_epochs=-1)
    wanted = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * tick / 5)).item()) for tick in range(5)]
    assert rates == pytest.approx(wanted)


def test_bf16_and_the_suite_find_nothing_wrong() -> None:
    trainer = quiet_trainer(
        callbacks=[TuningSuite(), ScheduleLR("CosineAnnealingLR", warmup=0.05)], max_epochs=6, precision="bf16-mixed"
    )
    trainer.fit(Mlp())
    assert not [f.text() for f in Journal.of(trainer).findings if f.code.startswith("LT5")]


def test_learning_rate_monitor_logs_it_under_its_name(tmp_path: Path) -> None:
    monitor = LearningRateMonitor()
    fit(Mlp(), ScheduleLR("StepLR", {"step_size": 9}, name="stairs"), monitor, logger=True)
    assert list(monitor.lrs) == ["stairs"]


class TestManualOptimization:
    def test_a_step_for_each_batch_with_an_update(self) -> None:
        assert fit(Manual(), ScheduleLR("ExponentialLR", {"gamma": 0.5}), max_epochs=1) == [
            0.1 * 0.5**tick for tick in range(STEPS)
        ]

    def test_batches_without_an_update_do_not_count(self) -> None:
        rates = fit(Manual(each=4), ScheduleLR("ExponentialLR", {"gamma": 0.5}), max_epochs=1)
        assert rates == [0.1, 0.05]

    def test_epochs(self) -> None:
        rates = fit(Manual(), ScheduleLR("ExponentialLR", {"gamma": 0.5}, interval="epoch", frequency=2), max_epochs=4)
        assert rates[:: 2 * STEPS] == [0.1, 0.05]
        assert len(set(rates)) == 2

    @pytest.mark.parametrize("interval", ["step", "epoch"])
    def test_resumed_it_goes_on(self, interval: Any, tmp_path: Path) -> None:
        def make() -> ScheduleLR:
            return ScheduleLR("ExponentialLR", {"gamma": 0.7}, interval=interval)

        whole = fit(Manual(), make(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1))
        with pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"):
            rest = fit(Manual(), make(), path=tmp_path / "epoch=0.ckpt")
        assert rest == whole[STEPS:]

    def test_no_metric_reaches_it(self) -> None:
        with pytest.raises(MisconfigurationException, match="PlateauLR"):
            fit(Manual(), ScheduleLR("ReduceLROnPlateau", monitor="val_loss", interval="epoch"))


class TestTheModuleHasOne:
    def test_two_are_refused(self) -> None:
        module = Own(lambda o: lr_scheduler.StepLR(o, 1))
        with pytest.raises(MisconfigurationException, match=r"already has StepLR.*when_scheduled='chain'"):
            fit(module, ScheduleLR("CosineAnnealingLR"))
        assert "configure_optimizers" not in vars(module)

    def test_a_warm_up_goes_before_it(self) -> None:
        module = Own(by_step(lambda o: lr_scheduler.ExponentialLR(o, 0.5)))
        rates = fit(module, ScheduleLR(warmup=4, warmup_start=0.5, when_scheduled="chain"), max_epochs=1)
        assert rates == pytest.approx([0.05, 0.0625, 0.075, 0.0875, 0.1, 0.05, 0.025, 0.0125])

    def test_it_has_to_count_alike(self) -> None:
        module = Own(lambda o: lr_scheduler.StepLR(o, 1))
        with pytest.raises(MisconfigurationException, match=r"interval='epoch', frequency=1, and a warm-up"):
            fit(module, ScheduleLR(warmup=4, when_scheduled="chain"))

    def test_not_before_a_plateau(self) -> None:
        module = Own(
            lambda o: {"scheduler": lr_scheduler.ReduceLROnPlateau(o), "monitor": "val_loss", "interval": "epoch"}
        )
        with pytest.raises(MisconfigurationException, match="ReduceLROnPlateau takes no warm-up"):
            fit(module, ScheduleLR(warmup=1, interval="epoch", when_scheduled="chain"))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield torch.zeros(8), torch.tensor(0)


def test_a_run_without_an_end_has_no_length() -> None:
    module = Mlp()
    module.train_dataloader = lambda: DataLoader(Endless(), batch_size=4)  # type: ignore[method-assign]
    with pytest.raises(MisconfigurationException, match="how long the run will be is not known"):
        fit(module, ScheduleLR("CosineAnnealingLR"), max_epochs=1)


def test_there_is_no_optimizer_of_that_index() -> None:
    with pytest.raises(MisconfigurationException, match=r"ScheduleLR\(optimizer=1\).*returned 1 optimizer"):
        fit(Mlp(), ScheduleLR("CosineAnnealingLR", optimizer=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"when_scheduled": "both"}, "`when_scheduled` must be 'refuse' or 'chain', got 'both'"),
        ({"when_scheduled": "chain"}, "`when_scheduled` must be 'refuse' unless"),
        ({"scheduler": "StepLR", "warmup": 3, "when_scheduled": "chain"}, "`when_scheduled` must be 'refuse' unless"),
        ({"optimizer": -1}, "`optimizer` must be None, an index"),
        ({"scheduler": "StepLr"}, "Did you mean 'StepLR'"),
    ],
)
def test_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleLR(**arguments)


class Mixed(ScheduleLRMixin, Mlp):
    def configure_optimizers(self) -> Any:
        return self.with_schedule_lr(SGD(self.parameters(), lr=0.1, momentum=0.9), "CosineAnnealingLR", warmup=0.25)


def test_the_mixin_is_the_callback() -> None:
    ours, theirs = Mixed(), Mlp()
    assert fit(ours) == fit(theirs, ScheduleLR("CosineAnnealingLR", warmup=0.25))
    assert_identical(state(ours), state(theirs))


def test_the_mixin_knows_no_manual_optimization() -> None:
    module = Mixed()
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match=r"ScheduleLR\('CosineAnnealingLR'\)"):
        module.configure_optimizers()
