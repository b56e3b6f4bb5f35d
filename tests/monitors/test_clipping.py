from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_tuning import ClippingMonitor, Finding, Journal, TuningWarning
from lightning_tuning.runtime import Desk
from tests.helpers import MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer


class Logged(CSVLogger):
    """What was logged, in memory."""

    def __init__(self) -> None:
        super().__init__(".")
        self.shares: dict[int, float] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if "tuning/clipped_share" in metrics:
            self.shares[step or 0] = metrics["tuning/clipped_share"]


def fit(model: Any, *callbacks: Any, **settings: Any) -> pl.Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=list(callbacks) or [ClippingMonitor()], **settings)
    trainer.fit(model)
    assert Journal.of(trainer).notes == []
    return trainer


def findings(*arguments: Any, **settings: Any) -> list[Finding]:
    return Journal.of(fit(*arguments, **settings)).findings


class Norms(pl.Callback):
    """The norms before clipping, in the plainest way."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.norms.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))


@pytest.mark.parametrize("own", [False, True], ids=["of Lightning", "of the module"])
def test_the_share_is_that_of_the_steps_read(own: bool) -> None:
    class Own(Mlp):
        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), 0.5)

    norms, logger = Norms(), Logged()
    model, settings = (Own(batches=60), {}) if own else (Mlp(batches=60), {"gradient_clip_val": 0.5})
    fit(model, ClippingMonitor(window=20), norms, logger=logger, **settings)
    read = norms.norms[4::5]
    assert sorted(logger.shares) == list(range(19, 60, 5))
    for step, share in logger.shares.items():
        window = read[: (step + 1) // 5][-4:]
        assert share == sum(0.99 * norm > 0.5 for norm in window) / 4


def test_nothing_is_logged_where_nobody_clips() -> None:
    logger = Logged()
    fit(Mlp(batches=60), ClippingMonitor(window=20), logger=logger)
    assert logger.shares == {}


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("bound", [None, 0.1])
def test_healthy_runs_are_quiet_whatever_they_clip(kind: type[TinyModule], bound: float | None) -> None:
    settings = {} if bound is None or kind is ManualGAN else {"gradient_clip_val": bound}
    assert findings(kind(batches=250), **settings) == []


class ByHand(Mlp):
    """Clips by hand, to next to nothing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.clip_gradients(optimizer, gradient_clip_val=1e-4, gradient_clip_algorithm="norm")
        optimizer.step()


def test_clipping_by_hand_is_seen_by_effect() -> None:
    (finding,) = findings(ByHand(batches=260))
    assert finding.evidence["share"] == 1.0
    assert finding.evidence["threshold"] == 1e-4
    assert str(finding.severity) == "info"  # nobody knows how such a run goes


class Guard(pl.Callback):
    """Stands for a callback of ours that clips to a bound of its own."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        Desk.of(trainer).meter.gradient_norms(optimizer, self)
        Desk.of(trainer).meter.clip_at(optimizer, 1e-4)
        torch.nn.utils.clip_grad_norm_(pl_module.parameters(), 1e-4)


def test_a_callback_of_ours_says_what_it_clips_to() -> None:
    with pytest.warns(TuningWarning, match="LT606"):
        (finding,) = findings(Mlp(batches=260), ClippingMonitor(), Guard())
    assert finding.evidence["threshold"] == 1e-4
    assert finding.evidence["median"] > 0.01


def test_it_goes_on_after_a_resume(tmp_path: Any) -> None:
    first, second = ClippingMonitor(), ClippingMonitor()
    checkpoint = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    fit(Mlp(batches=20), first, checkpoint, enable_checkpointing=True)
    second.load_tuning_state(first.tuning_state())
    assert second.tuning_state() == first.tuning_state()
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["lightning_tuning"]["ClippingMonitor"]
    assert saved == first.tuning_state()
    assert len(saved["judges"][0]["pairs"]) == 4


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("window", 19, "a whole number of at least 20"),
        ("window", 50.0, "a whole number of at least 20"),
        ("share", 0.0, "between 0 and 1"),
        ("share", 1.0, "between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be {allowed}, got {value}"):
        ClippingMonitor(**{argument: value})
