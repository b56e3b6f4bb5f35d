from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.amp import GradScaler

from lightning_tuning import Finding, Journal, TuningWarning, UpdateMonitor
from tests.contracts.test_bit_identity import assert_identical
from tests.contracts.test_bit_identity import fit as fit_for_identity
from tests.helpers import MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer


class Oracle(pl.Callback):
    """Each weight's update over its norm, measured in the plainest way, over each whole batch."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.ratios: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.before = {n: p.detach().clone().double() for n, p in pl_module.named_parameters() if p.ndim >= 2}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        now = dict(pl_module.named_parameters())
        self.ratios.append({n: float((now[n].detach() - old).norm() / old.norm()) for n, old in self.before.items()})


class Logged(CSVLogger):
    """What was logged, in memory."""

    def __init__(self) -> None:
        super().__init__(".")
        self.seen: dict[str, dict[int, float]] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.seen.setdefault(name, {})[step or 0] = float(value)


def fit(model: Any, monitor: UpdateMonitor, *callbacks: Any, **settings: Any) -> pl.Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=[monitor, *callbacks], **settings)
    trainer.fit(model)
    assert Journal.of(trainer).notes == []
    return trainer


def findings(*arguments: Any, **settings: Any) -> list[Finding]:
    return Journal.of(fit(*arguments, **settings)).findings


def test_the_ratio_is_that_of_the_real_step() -> None:
    oracle, logger = Oracle(), Logged()
    fit(Mlp(), UpdateMonitor(every_n_steps=1), oracle, logger=logger, gradient_clip_val=0.1)
    for name, take in (("", sorted), ("_min", sorted), ("_max", sorted)):
        logged = logger.seen[f"tuning/update_ratio{name}"]
        assert sorted(logged) == list(range(8))
        for step, ratio in logged.items():
            place = {"": 1, "_min": 0, "_max": 2}[name]
            assert ratio == pytest.approx(take(oracle.ratios[step].values())[place], rel=1e-4)


def test_accumulation_measures_the_batches_that_step() -> None:
    oracle, logger = Oracle(), Logged()
    fit(Mlp(), UpdateMonitor(every_n_steps=1), oracle, logger=logger, accumulate_grad_batches=4)
    assert logger.seen["tuning/update_ratio_max"].keys() == {0, 1}
    assert logger.seen["tuning/update_ratio_max"][1] == pytest.approx(max(oracle.ratios[7].values()), rel=1e-4)


def test_two_optimizers_are_measured_apart() -> None:
    oracle, logger = Oracle(), Logged()
    fit(ManualGAN(), UpdateMonitor(every_n_steps=1), oracle, logger=logger)
    for index, part in ((0, "net.discriminator"), (1, "net.generator")):
        logged = logger.seen[f"tuning/update_ratio_max/optimizer_{index}"]
        expected = [max(r for n, r in ratios.items() if n.startswith(part)) for ratios in oracle.ratios]
        assert list(logged.values()) == pytest.approx(expected, rel=1e-4)


class Twice(Mlp):
    """Steps twice in a batch, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_two_steps_in_a_batch_are_two_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    monkeypatch.setattr(UpdateMonitor, "_judge", lambda self, desk, copy, ratios: seen.append(ratios))
    oracle = Oracle()
    fit(Twice(), UpdateMonitor(every_n_steps=1), oracle)
    assert len(seen) == 16
    for first, second, both in zip(seen[::2], seen[1::2], oracle.ratios, strict=True):
        assert max(first) + max(second) * 1.2 > max(both.values())
        assert max(first) < max(both.values()) * 0.9


class ByLBFGS(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


def test_lbfgs_is_measured_over_the_whole_step() -> None:
    oracle, logger = Oracle(), Logged()
    fit(ByLBFGS(), UpdateMonitor(every_n_steps=1), oracle, logger=logger)
    expected = [max(ratios.values()) for ratios in oracle.ratios]
    assert list(logger.seen["tuning/update_ratio_max"].values()) == pytest.approx(expected, rel=1e-4)


def test_a_step_that_the_scaler_leaves_out_is_no_reading() -> None:
    plugin = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**40, growth_interval=1000))
    logger = Logged()
    fit(Mlp(batches=40), UpdateMonitor(every_n_steps=1), plugins=[plugin], logger=logger)
    assert 0 not in logger.seen["tuning/update_ratio"]
    assert min(logger.seen["tuning/update_ratio_min"].values()) > 0


def test_large_nets_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[list[str]] = []
    monkeypatch.setattr(UpdateMonitor, "_judge", lambda self, desk, copy, ratios: turns.append(copy.names))
    fit(Mlp(batches=3), UpdateMonitor(every_n_steps=1, elements=300))
    assert turns == [["net.0.weight"], ["net.2.weight"], ["net.4.weight", "net.0.weight"]]


def test_weights_whose_rate_is_zero_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(UpdateMonitor, "_judge", lambda self, desk, copy, ratios: seen.extend(copy.names))

    class Parts(Mlp):
        def configure_optimizers(self) -> Any:
            groups = [{"params": self.net[:2].parameters(), "lr": 0.0}, {"params": self.net[2:].parameters()}]
            return torch.optim.SGD(groups, lr=0.1)

    fit(Parts(batches=1), UpdateMonitor(every_n_steps=1))
    assert seen == ["net.2.weight", "net.4.weight"]


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_the_run_is_changed_by_no_bit(kind: type[TinyModule]) -> None:
    bare, watched = (fit_for_identity(kind, callbacks) for callbacks in ([], [UpdateMonitor(every_n_steps=1)]))
    assert_identical(bare, watched)


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_healthy_runs_are_quiet(kind: type[TinyModule]) -> None:
    assert findings(kind(batches=150), UpdateMonitor(every_n_steps=10)) == []


def test_a_rate_that_is_far_too_low_is_told_apart_from_one_that_came_down() -> None:
    with pytest.warns(TuningWarning, match="LT605 update-too-small at SGD group 0"):
        findings(Mlp(lr=1e-8, batches=250), UpdateMonitor(every_n_steps=10))

    class Down(Mlp):
        def on_train_batch_start(self, *_: Any) -> None:
            if self.global_step == 1:
                self.optimizers().param_groups[0]["lr"] = 1e-9

    assert findings(Down(lr=1e-3, batches=250), UpdateMonitor(every_n_steps=10)) == []


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")  # without the saver
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning")
def test_it_goes_on_after_a_resume(tmp_path: Any) -> None:
    first, second = UpdateMonitor(every_n_steps=2), UpdateMonitor(every_n_steps=2)
    checkpoint = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    fit(Mlp(), first, checkpoint, enable_checkpointing=True)
    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            seen.append(second.tuning_state())

    trainer = quiet_trainer(callbacks=[second, Look()], max_epochs=2)
    trainer.fit(Mlp(), ckpt_path=tmp_path / "end.ckpt")
    assert seen == [first.tuning_state()]
    assert len(seen[0]["small"]["net.0.weight"]) == 4


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("every_n_steps", 0, "a whole number of at least 1"),
        ("elements", True, "a whole number of at least 1"),
        ("too_large", 0.0, "above 0"),
        ("too_small", -1.0, "above 0"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be {allowed}, got {value}"):
        UpdateMonitor(**{argument: value})
