"""What the updates before a bad step tell, measured in real runs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_tuning import Finding, NanLossGuard, TuningError
from lightning_tuning.guards._past import pace_of, weight_norm
from tests.cases.nan.culprits import NeverSetBack, Overflowing, Regression
from tests.helpers import Mlp, quiet_trainer


def raised(model: pl.LightningModule, **settings: Any) -> Finding:
    with pytest.raises(TuningError) as error:
        quiet_trainer(callbacks=[NanLossGuard()], limit_val_batches=0, **settings).fit(model)
    return error.value.finding


class Moves(pl.Callback):
    """Measures the last update, and what is told of it."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before, self.norms = weight_norm(pl_module), []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.norms.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))
        self.old = torch.cat([p.detach().flatten() for p in pl_module.parameters()])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        new = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        self.length = float((new - self.old).norm())
        self.pace = pace_of(trainer, pl_module, self.norms[-1:], before=self.before, updates=3)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.3), {}),
        (lambda p: torch.optim.SGD(p, lr=0.3), {"gradient_clip_val": 0.1}),
        (lambda p: torch.optim.Adam(p, lr=0.01), {}),
        (lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-3), {"gradient_clip_val": 0.1}),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0), {}),
    ],
)
def test_the_last_update_is_as_long_as_it_is_told(make: Any, settings: dict[str, Any]) -> None:
    model, moves = Mlp(batches=3), Moves()
    model.configure_optimizers = lambda: make(model.parameters())
    quiet_trainer(callbacks=[moves], limit_val_batches=0, **settings).fit(model)
    assert moves.pace is not None
    assert moves.pace.smallest == pytest.approx(moves.length, rel=1e-3)
    assert moves.pace.known == 1
    assert moves.pace.proportional == (type(model.configure_optimizers()) is torch.optim.SGD)
    assert moves.pace.now == pytest.approx(weight_norm(model))


def test_of_other_optimizers_the_weights_alone_are_known() -> None:
    model, moves = Mlp(batches=3), Moves()
    model.configure_optimizers = lambda: torch.optim.RMSprop(model.parameters(), lr=0.01)
    quiet_trainer(callbacks=[moves], limit_val_batches=0).fit(model)
    assert moves.pace is not None
    assert (moves.pace.smallest, moves.pace.known, moves.pace.lr) == (None, 0, 0.01)


class Windows(NeverSetBack):
    """Accumulates by hand over four batches; gradients are set back before or after, to ``None`` or to zero."""

    def __init__(self, *, before: bool, to_none: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before, self.to_none = before, to_none

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        if self.before and batch_idx % 4 == 0:
            optimizer.zero_grad(set_to_none=self.to_none)
        self.manual_backward(Regression.training_step(self, batch, batch_idx) / 4)
        if batch_idx % 4 == 3:
            optimizer.step()
            if not self.before:
                optimizer.zero_grad(set_to_none=self.to_none)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NeverSetBack(lr=30.0, clear="before"),
        lambda: NeverSetBack(lr=30.0, clear="zero"),
        lambda: Windows(lr=30.0, before=True),
        lambda: Windows(lr=30.0, before=False),
        lambda: Windows(lr=30.0, before=True, to_none=False),
        lambda: Windows(lr=30.0, before=False, to_none=False),
    ],
)
def test_gradients_that_are_set_back_are_not_called_stale(make: Any) -> None:
    finding = raised(make())
    assert finding.evidence["cause"] == "learning-rate"
    assert finding.evidence["lr"] == 30.0


@pytest.mark.parametrize("clip", [False, True])
def test_gradients_that_never_are_set_back_are_counted(clip: bool) -> None:
    class Clipped(NeverSetBack):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            if clip and self.global_step:
                torch.nn.utils.clip_grad_norm_(self.parameters(), 1e6)
            super().training_step(batch, batch_idx)

    finding = raised(Clipped(lr=1.0, batches=400))
    assert finding.evidence["cause"] == "stale-gradient"
    assert finding.evidence["stale_updates"] == finding.evidence["step"]


class Overridden(Regression):
    """Automatic optimization; ``clear`` says what becomes of the gradients in the module's own ``optimizer_zero_grad``.

    Nothing else sets them back but ``elsewhere``, a hook.
    """

    clear = "never"

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self.clear == "zero" or (self.clear == "windows" and batch_idx % 4 == 0):
            optimizer.zero_grad(set_to_none=False)


class InPlace(Overridden):
    clear = "zero"


class InWindows(Overridden):
    clear = "windows"


class Elsewhere(Overridden):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()


def test_an_overridden_zero_grad_that_does_nothing_is_found_by_the_guard() -> None:
    finding = raised(Overridden(lr=1.0, batches=400))
    assert finding.evidence["cause"] == "stale-gradient"
    assert finding.evidence["stale_updates"] == finding.evidence["step"]
    assert "leave `optimizer_zero_grad` to Lightning" in finding.remedy


@pytest.mark.parametrize("kind", [Regression, InPlace, InWindows, Elsewhere])
def test_under_automatic_optimization_what_sets_gradients_back_is_not_called_stale(kind: type[Regression]) -> None:
    assert raised(kind(lr=30.0, batches=400)).evidence["cause"] != "stale-gradient"


class ClearsThem(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        pl_module.zero_grad(set_to_none=False)


def test_a_callback_may_set_gradients_back() -> None:
    with pytest.raises(TuningError) as error:
        quiet_trainer(callbacks=[NanLossGuard(), ClearsThem()], limit_val_batches=0).fit(Overridden(lr=30.0))
    assert error.value.finding.evidence["cause"] == "learning-rate"


def test_a_logarithm_of_zero_is_blamed_whatever_the_learning_rate() -> None:
    class Logarithm(Regression):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss + (loss.detach() * 0).log() if batch_idx == 2 else loss

    assert raised(Logarithm(lr=10.0)).evidence["cause"] == "log-of-zero"


def test_a_huge_sample_in_a_calm_run_is_an_overflow() -> None:
    class Outlier(Regression):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            x, target = batch
            return F.mse_loss(self(x * (1e25 if batch_idx == 7 else 1.0)), target)

    for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):
        finding = raised(Outlier(lr=1e-3, optimizer=optimizer))
        assert finding.evidence["cause"] == "overflow"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_rate_that_is_too_high_for_the_mean_too_is_the_rate(reduction: str) -> None:
    assert raised(Regression(lr=30.0, reduction=reduction)).evidence["cause"] == "learning-rate"


def test_what_a_resumed_run_moved_is_measured_from_there(tmp_path: Any) -> None:
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(Overflowing(lr=1e-3, batches=4))
    trainer.save_checkpoint(tmp_path / "calm.ckpt")
    model = Overflowing(lr=1e-3, batches=4)
    later = quiet_trainer(callbacks=[NanLossGuard(), Hasten()], max_epochs=3, limit_val_batches=0)
    with pytest.raises(TuningError) as error:
        later.fit(model, ckpt_path=tmp_path / "calm.ckpt", weights_only=True)
    assert error.value.finding.evidence["cause"] == "learning-rate"
    assert error.value.finding.evidence["lr"] == 100.0


class Hasten(pl.Callback):
    """Makes the learning rate absurd."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 100.0
