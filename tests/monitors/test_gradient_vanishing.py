from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.amp import GradScaler

from lightning_tuning import Finding, GradientVanishingMonitor, Journal, LearningCurveMonitor, TuningWarning
from tests.cases._initialised import Initialised, stack
from tests.helpers import CLASSES, MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer


def fit(model: Any, monitor: GradientVanishingMonitor | None = None, **settings: Any) -> list[Finding]:
    torch.manual_seed(0)
    callbacks = [monitor or GradientVanishingMonitor(), *settings.pop("callbacks", ())]
    trainer = quiet_trainer(callbacks=callbacks, **settings)
    trainer.fit(model)
    assert Journal.of(trainer).notes == []
    return Journal.of(trainer).findings


def often() -> GradientVanishingMonitor:
    return GradientVanishingMonitor(every_n_steps=5)


def sigmoid_stack() -> TinyModule:
    """Stays at ln K, from where the random head had begun 3 % higher."""
    return Initialised(make=lambda: stack(8, nn.Sigmoid), batches=260)


def test_alone_it_tells_of_a_sigmoid_stack() -> None:
    (finding,) = fit(sigmoid_stack(), often())
    assert (finding.code, finding.where) == ("LT602", "net.0.weight")
    assert "nn.ReLU()" in finding.remedy
    assert finding.evidence["cause"] == "saturation"


def test_it_warns_where_somebody_knows_that_nothing_is_learned() -> None:
    with pytest.warns(TuningWarning, match="LT602 vanishing-gradient at net.0.weight"):
        found = fit(sigmoid_stack(), often(), callbacks=[LearningCurveMonitor()])
    assert {finding.code for finding in found} >= {"LT602", "LT801"}


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_healthy_runs_are_quiet(kind: type[TinyModule]) -> None:
    assert fit(kind(batches=220), often()) == []


class LoRA(TinyModule):
    """A frozen layer and its low-rank detour, whose second half starts at 0; the head as well, and a ReZero."""

    def build(self) -> nn.Module:
        parts = {
            "body": nn.Linear(8, 16).requires_grad_(False),
            "a": nn.Linear(8, 2, bias=False),
            "b": nn.Linear(2, 16, bias=False),
            "branch": nn.Linear(16, 16),
            "head": nn.Linear(16, CLASSES),
        }
        nn.init.zeros_(parts["b"].weight)
        net = nn.ModuleDict(parts)
        net.register_parameter("gate", nn.Parameter(torch.zeros(1)))
        return net

    def forward(self, x: Tensor) -> Tensor:
        h = (self.net["body"](x) + self.net["b"](self.net["a"](x))).relu()
        return self.net["head"](h + self.net.gate * self.net["branch"](h).tanh())


def test_what_starts_behind_a_zero_is_quiet() -> None:
    assert fit(LoRA(batches=220), often()) == []


class Experts(TinyModule):
    """Of four experts one works in each step; the last one for the first time after 150."""

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[self.global_step % 3 if self.global_step < 150 else 3](x)


def test_an_expert_that_waits_is_quiet() -> None:
    assert fit(Experts(batches=220), often()) == []


class Twin(Mlp):
    """An average of the net that nobody froze and that the optimizer holds as well."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.twin = copy.deepcopy(self.net)

    def on_train_batch_end(self, *_: Any) -> None:
        for own, other in zip(self.twin.parameters(), self.net.parameters(), strict=True):
            own.data.lerp_(other.data, 0.1)


def test_an_average_is_quiet() -> None:
    assert fit(Twin(batches=220), often()) == []


class Alternating(Mlp):
    """The first half of the net and the second take turns of 50 steps."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for layer in (0, 2, 4):
            self.net[layer].requires_grad_((layer == 4) == (self.global_step // 50 % 2 == 0))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_taking_turns_is_quiet() -> None:
    assert [f for f in fit(Alternating(batches=220), often()) if f.code == "LT603"] == []


def test_the_scalers_first_steps_do_not_count() -> None:
    plugin = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**40, growth_interval=1000))
    assert fit(LoRA(batches=60), often(), plugins=[plugin]) == []


def zeros(net: nn.Module) -> None:
    for parameter in net.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_of_zeros_are_an_error(accumulate: int) -> None:
    with pytest.warns(TuningWarning, match="LT603 no-gradient at net.4.weight"):
        (finding,) = fit(Initialised(zeros, batches=30), often(), accumulate_grad_batches=accumulate)
    assert finding.evidence["steps"] == 10
    assert finding.evidence["parameters"] == 5


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")  # without the saver
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning")
def test_it_goes_on_after_a_resume(tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
    trainer = quiet_trainer(callbacks=[GradientVanishingMonitor(), checkpoint], enable_checkpointing=True, max_steps=6)
    trainer.fit(Initialised(zeros, batches=30))
    again = quiet_trainer(callbacks=[GradientVanishingMonitor()], max_steps=12)
    with pytest.warns(TuningWarning, match="LT603"):
        again.fit(Initialised(zeros, batches=30), ckpt_path=tmp_path / "step=6.ckpt")
    (finding,) = Journal.of(again).findings
    assert finding.step == 9


def test_of_several_optimizers_only_missing_gradients_are_judged() -> None:
    class Zeros(ManualGAN):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            zeros(self.net["generator"])

    with pytest.warns(TuningWarning, match="LT603"):
        found = fit(Zeros(batches=60), often())
    assert {finding.code for finding in found} == {"LT603"}


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("every_n_steps", 0, "a whole number of at least 1"),
        ("every_n_steps", 2.5, "a whole number of at least 1"),
        ("ratio", 0.0, "above 0"),
        ("norm", float("nan"), "above 0"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be {allowed}, got {value}"):
        GradientVanishingMonitor(**{argument: value})
