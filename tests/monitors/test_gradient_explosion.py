from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.amp import GradScaler

from lightning_tuning import Finding, GradientExplosionMonitor, Journal, Severity, TuningWarning
from tests.helpers import CLASSES, MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer


class RisingRate(Mlp):
    """Trains well for a while; then the learning rate is multiplied by ``factor`` until the run breaks."""

    def __init__(self, factor: float = 30.0, calm: int = 40, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor, self.calm = factor, calm

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step >= self.calm:
            for group in self.optimizers().param_groups:
                group["lr"] = self.lr * self.factor


class ExplodingRNN(TinyModule):
    """A recurrent net whose recurrent weights grow their own gradient over 40 steps."""

    shape = (40, 4)

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {"rnn": nn.RNN(4, 16, nonlinearity="relu", batch_first=True), "head": nn.Linear(16, CLASSES)}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["rnn"](x)[0][:, -1])


def fit(model: Any, monitor: GradientExplosionMonitor | None = None, **settings: Any) -> list[Finding]:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=[monitor or GradientExplosionMonitor()], **settings)
    trainer.fit(model)
    return Journal.of(trainer).findings


def test_an_explosion_that_breaks_the_run_is_a_warning_with_place_and_value() -> None:
    with pytest.warns(TuningWarning, match="LT601 exploding-gradient"):
        (finding,) = fit(RisingRate(batches=40), max_epochs=4)
    assert finding.severity is Severity.WARNING
    assert finding.where.startswith("net.")
    assert finding.step is not None
    assert finding.step >= 40
    clip = finding.evidence["suggested_clip"]
    assert 0.1 < clip < 2, "the value is that of the calm part, not of the explosion"
    assert f"gradient_clip_val={clip:.2g}" in finding.remedy


def test_a_recurrent_explosion_is_told_to_clip() -> None:
    with pytest.warns(TuningWarning, match="recurrent nets want clipping"):
        (finding,) = fit(ExplodingRNN(lr=0.5, batches=60, seed=1), max_epochs=2)
    assert finding.where.startswith("net.")


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_healthy_runs_are_quiet(kind: type[TinyModule]) -> None:
    assert fit(kind(batches=20), max_epochs=5) == []


def test_norms_above_one_are_nothing_to_speak_of() -> None:
    class SumLoss(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 100 * super().training_step(batch, batch_idx)

    monitor = GradientExplosionMonitor()
    assert fit(SumLoss(lr=1e-3, batches=20), monitor, max_epochs=4) == []
    clip = monitor.suggested_clip()
    assert clip is not None
    assert clip > 10


def test_the_scalers_first_infinities_are_its_own() -> None:
    plugin = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**40, growth_interval=1000))
    assert fit(Mlp(batches=30), plugins=[plugin]) == []


def test_two_optimizers_are_judged_apart() -> None:
    monitor = GradientExplosionMonitor()
    fit(ManualGAN(batches=12), monitor)
    clips = [monitor.suggested_clip(index) for index in (0, 1, 2)]
    assert clips[0] != clips[1]
    assert clips[2] is None


def test_nothing_is_suggested_before_anything_was_seen() -> None:
    assert GradientExplosionMonitor().suggested_clip() is None


def test_accumulation_counts_optimizer_steps() -> None:
    monitor = GradientExplosionMonitor()
    fit(Mlp(batches=20), monitor, accumulate_grad_batches=4)
    assert len(monitor.tuning_state()["judges"][0]["norms"]) == 5


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("window", 19, "at least 20"),
        ("ratio", 1.0, "above 1"),
        ("ratio", math.nan, "above 1"),
        ("z", 0.0, "above 0"),
        ("spread", -1.0, "above 1"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be {allowed}, got {value}"):
        GradientExplosionMonitor(**{argument: value})
