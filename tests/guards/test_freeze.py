from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning import BatchNormCheck, FreezeGuard, Journal, TrainEvalModeCheck, TuningSuite
from tests.helpers import CLASSES, ManualGAN, TinyModule, quiet_trainer


class Net(TinyModule):
    """A backbone with statistics, a frozen twin of what trains, and dropout on both sides."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.modes: list[bool] = []

    def build(self) -> nn.Module:
        backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        with torch.no_grad():
            for _ in range(5):
                backbone(torch.randn(32, 8) + 1)
        head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, CLASSES))
        return nn.Sequential(backbone, head)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.modes += [part.training for part in self.net[0].modules()]
        return super().training_step(batch, batch_idx)


def fit(model: pl.LightningModule, *callbacks: pl.Callback, ckpt_path: Any = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=[*callbacks], **settings)
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


def buffers(model: Net) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in model.net[0].buffers()]


@pytest.mark.parametrize("parameters", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"val_check_interval": 2, "max_epochs": 2}, {"num_sanity_val_steps": 0}, {"precision": "bf16-mixed"}],
    ids=str,
)
def test_statistics_stay_through_validations_and_epochs(parameters: bool, settings: dict[str, Any]) -> None:
    model = Net()
    before, weight = buffers(model), model.net[0][0].weight.clone()
    other = model.net[1][1].running_mean.clone()
    trainer = fit(model, FreezeGuard("net.0", parameters=parameters), **settings)
    assert model.modes
    assert not any(model.modes)
    assert all(torch.equal(a, b) for a, b in zip(before, buffers(model), strict=True))
    assert torch.equal(weight, model.net[0][0].weight) is parameters
    assert not torch.equal(other, model.net[1][1].running_mean)
    counts = "1 batch norm, 1 dropout" + (", 4 parameters" if parameters else "")
    assert f"FreezeGuard: frozen: net.0 ({counts})" in Journal.of(trainer).notes
    assert model.net[0].training  # as before the run
    assert all(p.requires_grad for p in model.parameters())


class CallsTrain(Net):
    """Where a recipe puts everything into training mode."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.hook = hook

    def on_train_epoch_start(self) -> None:
        if self.hook == "epoch":
            self.train()

    def on_validation_epoch_end(self) -> None:
        if self.hook == "validation":
            self.train()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.hook == "batch":
            self.train()


@pytest.mark.parametrize("hook", ["epoch", "validation", "batch"])
def test_a_train_elsewhere_is_undone_and_told_once(hook: str) -> None:
    model = CallsTrain(hook)
    trainer = fit(model, FreezeGuard("net.0"), max_epochs=2)
    assert not any(model.modes)
    told = [note for note in Journal.of(trainer).notes if "was put into training mode" in note]
    assert len(told) == (0 if hook == "validation" else 1)  # Lightning itself undoes that one


@pytest.mark.parametrize("parameters", [True, False])
def test_checks_take_it_as_meant(parameters: bool) -> None:
    trainer = fit(Net(), FreezeGuard("net.0", parameters=parameters), TrainEvalModeCheck(), BatchNormCheck())
    assert {f.code for f in Journal.of(trainer).findings} & {"LT320", "LT321", "LT322"} == set()


def test_what_is_not_declared_is_still_found() -> None:
    """The dropout of the head is in evaluation mode by somebody's mistake."""

    class Mistake(Net):
        def on_train_epoch_start(self) -> None:
            self.net[1][3].eval()

    class Third(Mistake):
        def build(self) -> nn.Module:
            net = super().build()
            net[1].insert(3, nn.Dropout(0.1))
            return net

    with pytest.warns(Warning, match="LT320"):
        trainer = fit(Third(), FreezeGuard("net.0"), TrainEvalModeCheck())
    (finding,) = [f for f in Journal.of(trainer).findings if f.code == "LT320"]
    assert finding.where == "net.1.3"


def test_with_the_suite_nothing_is_found() -> None:
    trainer = fit(Net(), TuningSuite(), FreezeGuard("net.0", parameters=True), max_epochs=2)
    assert {f.code for f in Journal.of(trainer).findings} & {
        "LT320",
        "LT321",
        "LT322",
        "LT602",
        "LT603",
        "LT404",
    } == set()


def test_frozen_parameters_are_in_no_optimizers_way_and_the_run_is_that_by_hand() -> None:
    class ByHand(Net):
        def on_fit_start(self) -> None:
            self.net[0].requires_grad_(False)

        def on_train_epoch_start(self) -> None:
            self.net[0].eval()

    guarded, by_hand = Net(), ByHand()
    fit(guarded, FreezeGuard("net.0", parameters=True), accumulate_grad_batches=2, max_epochs=2)
    fit(by_hand, accumulate_grad_batches=2, max_epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(guarded.parameters(), by_hand.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(guarded.buffers(), by_hand.buffers(), strict=True))


def test_resumed_and_fitted_again(tmp_path: Path) -> None:
    guard, model = FreezeGuard(["net.0.1", "net.0.3"], parameters=True), Net()
    trainer = fit(model, guard)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    kept = buffers(model)
    again = Net()
    fit(again, FreezeGuard(["net.0.1", "net.0.3"], parameters=True), ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    fit(model, guard)
    for net in (again, model):
        assert all(torch.equal(a, b) for a, b in zip(kept, buffers(net), strict=True))
        assert net.net[0][1].weight.requires_grad


def test_an_error_unfreezes() -> None:
    class Fails(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("mine")

    model = Fails()
    with pytest.raises(RuntimeError, match="mine"):
        fit(model, FreezeGuard("net", parameters=True))
    assert all(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_frozen_without_statistics_is_told() -> None:
    trainer = fit(Net(), FreezeGuard("net.1.1"))
    assert "FreezeGuard: 1 frozen batch norm(s) have no statistics yet, `net.1.1` first" in Journal.of(trainer).notes


def test_manual_optimization() -> None:
    model = ManualGAN()
    before = [p.clone() for p in model.net["generator"].parameters()]
    with torch.no_grad():
        before = [p.clone() for p in model.net["generator"].parameters()]
    fit(model, FreezeGuard("net.generator"))
    assert not all(torch.equal(a, b) for a, b in zip(before, model.net["generator"].parameters(), strict=True))


def test_bad_arguments_and_globs_that_mean_nothing() -> None:
    with pytest.raises(MisconfigurationException, match=r"FreezeGuard: `modules` must mean a module, got 'backbone'"):
        fit(Net(), FreezeGuard("backbone"))
    with pytest.raises(ValueError, match=r"`modules` must hold at least one glob on dotted names, got \[\]\."):
        FreezeGuard([])
    with pytest.raises(ValueError, match=r"`modules` must hold globs on dotted names, got 1\."):
        FreezeGuard([1])  # type: ignore[list-item]
