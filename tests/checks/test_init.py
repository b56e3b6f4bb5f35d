"""InitCheck in real fits: what it says when, of which runs it says nothing, and that a good init silences it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning import Finding, InitCheck, Journal, Severity, TuningWarning, WeightInitCallback
from tests.cases._initialised import Initialised, he, stack
from tests.helpers import CLASSES, CLASSIFIERS, ManualGAN, Mlp, TinyModule, quiet_trainer


def run(module: TinyModule, *others: Any, ckpt_path: Path | None = None, **settings: Any) -> list[Finding]:
    trainer = quiet_trainer(callbacks=[*others, InitCheck()], **settings)
    trainer.fit(module, ckpt_path=ckpt_path)
    return Journal.of(trainer).findings


def codes(found: list[Finding]) -> set[str]:
    return {finding.code for finding in found}


def collapsing(**kwargs: Any) -> Initialised:
    return Initialised(make=lambda: stack(12), batches=12, **kwargs)


def large(**kwargs: Any) -> Initialised:
    """Every code of values at once: equal units, large weights, a first loss that is off."""

    def change(net: nn.Module) -> None:
        nn.init.constant_(net[0].weight, 0.3)
        nn.init.normal_(net[2].weight, std=3.0)
        nn.init.normal_(net[4].weight, std=3.0)

    return Initialised(change, lr=1e-4, **kwargs)


@pytest.mark.parametrize("kind", [*CLASSIFIERS, ManualGAN])
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}], ids=["fp32", "bf16"])
def test_healthy_nets_are_quiet(kind: type[TinyModule], settings: dict[str, Any]) -> None:
    assert codes(run(kind(), max_epochs=2, **settings)) <= {"LT208"}  # advice for LSTMs, unheard where they learn


def test_a_collapse_is_a_warning_once_the_run_is_flat() -> None:
    with pytest.warns(TuningWarning, match="LT201 signal-collapse at net.10|LT202 gradient-spread"):
        found = run(collapsing(lr=1e-4), max_epochs=20)
    assert {f.code: f.severity for f in found} == {"LT201": Severity.WARNING, "LT202": Severity.WARNING}


def test_a_symptom_is_held_while_nobody_knows() -> None:
    found = run(collapsing())
    assert {(f.code, f.severity, f.count) for f in found} == {
        ("LT201", Severity.INFO, 3),
        ("LT202", Severity.INFO, 3),
    }


def test_weight_init_cures_them() -> None:
    assert "LT201" in codes(run(collapsing()))
    assert codes(run(collapsing(), WeightInitCallback())) == set()


def test_it_cures_memory_that_nobody_filled() -> None:
    def change(net: nn.Module) -> None:
        net[2].weight = nn.Parameter(torch.full((32, 32), float("nan")))

    assert codes(run(Initialised(change), WeightInitCallback())) == set()


def test_values_are_judged_at_the_first_step() -> None:
    with pytest.warns(TuningWarning):
        assert codes(run(large())) == {"LT203", "LT205", "LT206"}


def test_a_resumed_run_is_left_alone(tmp_path: Path) -> None:
    trainer = quiet_trainer()
    trainer.fit(large())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert run(large(), max_epochs=2, ckpt_path=tmp_path / "end.ckpt") == []


def test_a_second_fit_of_a_module_is_left_alone() -> None:
    module = large()
    with pytest.warns(TuningWarning):
        assert run(module)
    assert run(module) == []


def test_loaded_weights_are_left_alone() -> None:
    trained = Initialised(make=lambda: nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, CLASSES)))
    quiet_trainer().fit(trained)

    def change(net: nn.Module) -> None:
        net.load_state_dict(copy.deepcopy(trained.net.state_dict()))
        net[2].weight.data.mul_(30)

    assert run(Initialised(change, make=trained._make, lr=1e-4)) == []


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_first_loss_is_that_of_the_batch(accumulate: int) -> None:
    module = Initialised(lambda net: (he(net), nn.init.normal_(net[4].weight, std=1.0)), lr=1e-3)
    x, y = next(iter(module.train_dataloader()))
    first = F.cross_entropy(module(x), y).item()
    (found,) = run(module, accumulate_grad_batches=accumulate)
    assert found.code == "LT206"
    assert found.evidence["loss"] == pytest.approx(first, rel=1e-4)


class TwoOptimizers(Initialised):
    """By hand, one for the body and one for the head."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(make=lambda: stack(12), batches=12, **kwargs)
        self.automatic_optimization = False
        nn.init.normal_(self.net[-1].weight, std=30.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.net[:4].parameters(), lr=1e-4),
            torch.optim.SGD(self.net[4:].parameters(), lr=1e-4),
        ]


def test_of_manual_optimization_it_judges_the_forward_pass_alone() -> None:
    assert codes(run(TwoOptimizers())) == {"LT201"}


class NoLossAtFirst(Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx == 0 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")  # as it does
def test_a_batch_without_a_loss() -> None:
    module = NoLossAtFirst(lr=1e-3)
    nn.init.normal_(module.net[4].weight, std=30.0)
    assert "LT206" in codes(run(module))


def test_compiled_parts_are_seen_aside() -> None:
    module = Initialised(make=lambda: torch.compile(stack(12), backend="eager"), batches=12)
    assert "LT201" in codes(run(module))


def test_what_it_cannot_see_it_does_not_guess() -> None:
    class Opaque(Initialised):
        """Its body is TorchScript."""

        def build(self) -> nn.Module:
            with torch.no_grad():
                return torch.jit.trace(stack(12), torch.zeros(2, 8))

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        module = Opaque(batches=12)
    assert run(module) == []


def test_nothing_stays_behind() -> None:
    check = InitCheck()
    trainer = quiet_trainer(callbacks=[check], max_epochs=2)
    trainer.fit(Mlp())
    assert check._probe._measured == {}
    assert check._first_loss is None
