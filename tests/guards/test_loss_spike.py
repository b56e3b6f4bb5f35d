"""Real runs that are thrown off, and healthy ones that look like it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ExponentialLR

from lightning_tuning import Finding, Journal, LossSpikeGuard, NanLossGuard, Severity, TuningError
from tests.contracts.test_no_host_read import fake_cuda
from tests.guards.faulty import everything, same
from tests.helpers import MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer
from tests.ranks import gloo, on_two_ranks

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")  # they are looked at as findings

BEGIN = 120
Shake = Callable[["Shaken", int, Tensor, Tensor], tuple[Tensor, Tensor]]


class Shaken(Mlp):
    """``shake(module, number, x, y)`` gives what batch ``number`` of the run holds, or does something to the module."""

    def __init__(self, shake: Shake | None = None, *, schedule: Any = None, **kwargs: Any) -> None:
        super().__init__(**{"batches": 50, **kwargs})
        self.shake, self.schedule = shake, schedule
        self.number = 0
        self.curve: list[float] = []

    def on_train_start(self) -> None:
        self.number = self.current_epoch * self.batches

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        batch = batch if self.shake is None else self.shake(self, self.number, *batch)
        self.number += 1
        loss = super().training_step(batch, batch_idx)
        self.curve.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return (
            optimizer if self.schedule is None else {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}
        )


def poison(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Eight batches of large inputs with the labels of others: no unit of the net lives on."""
    return (30 * x, (y + 1) % 3) if BEGIN <= number < BEGIN + 8 else (x, y)


def ruin(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`poison`, for one rank of two."""
    return (100 * x, (y + 1) % 3) if BEGIN <= number < BEGIN + 8 else (x, y)


def jump(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The learning rate is 300 times itself for eight steps."""
    module.optimizers().param_groups[0]["lr"] *= {BEGIN: 300, BEGIN + 8: 1 / 300}.get(number, 1.0)
    return x, y


def mislabel(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Labels without sense from there on: no way back helps."""
    return x, torch.randint(3, y.shape, generator=torch.Generator().manual_seed(number)) if number >= BEGIN else y


def harder(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A curriculum: first what is easily told apart."""
    return (x, y) if number >= BEGIN else (3 * x, y)


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 5, **settings})
    trainer.fit(model)
    return trainer


def found(trainer: pl.Trainer, *codes: str) -> list[Finding]:
    return [finding for finding in Journal.of(trainer).findings if finding.code in (codes or ("LT802", "LT807"))]


def guarded(action: str = "rollback", **arguments: Any) -> LossSpikeGuard:
    return LossSpikeGuard(action, **{"snapshot_every_n_steps": 30, **arguments})


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_nothing_happens_in_a_healthy_run(kind: type[TinyModule]) -> None:
    models = [kind(batches=40) for _ in range(2)]
    guard = guarded()
    bare, watched = fit(models[0]), fit(models[1], guard)
    assert found(watched) == []
    assert guard.rollbacks == 0
    assert same(everything(models[0], bare.optimizers), everything(models[1], watched.optimizers))


HEALTHY: dict[str, Callable[[], Shaken]] = {
    "warm restarts": lambda: Shaken(
        schedule=lambda optimizer: {"scheduler": CosineAnnealingWarmRestarts(optimizer, 60), "interval": "step"}
    ),
    "a curriculum": lambda: Shaken(harder),
    "one odd batch": lambda: Shaken(lambda module, number, x, y: (x, (y + (number == BEGIN)) % 3)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_looks_like_a_spike_is_an_info_at_most(name: str) -> None:
    guard = guarded()
    trainer = fit(HEALTHY[name](), guard)
    assert {finding.severity for finding in found(trainer)} <= {Severity.INFO}
    assert guard.rollbacks == 0


@pytest.mark.parametrize("shake", [poison, jump], ids=lambda shake: shake.__name__)
def test_it_goes_back_to_before_the_spike_and_is_as_good_as_before(shake: Shake) -> None:
    guard, model = guarded(), Shaken(shake)
    trainer = fit(model, guard)
    (finding,) = found(trainer, "LT807")
    assert finding.severity is Severity.WARNING
    assert finding.step is not None
    assert BEGIN <= finding.step <= BEGIN + 4
    assert "; went back to the weights of step 90 " in finding.message
    assert guard.rollbacks == 1
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * model.lr)
    before, after = model.curve[BEGIN - 30 : BEGIN], model.curve[-30:]
    assert sum(after) < 1.5 * sum(before)
    (note,) = [note for note in Journal.of(trainer).notes if note.startswith("rollback 1 of at most 3")]
    assert "(LT807)" in note
    assert "the loss is back at its level" in note
    assert trainer.global_step == 250


@pytest.mark.parametrize("shake", [poison, jump], ids=lambda shake: shake.__name__)
def test_without_a_way_back_it_is_not(shake: Shake) -> None:
    model = Shaken(shake)
    (finding,) = found(fit(model, guarded("warn")), "LT807")
    assert finding.severity is Severity.WARNING
    assert sum(model.curve[-30:]) > 10 * sum(model.curve[BEGIN - 30 : BEGIN])


def test_a_warning_changes_nothing() -> None:
    models = [Shaken(poison) for _ in range(2)]
    bare, watched = fit(models[0]), fit(models[1], guarded("warn"))
    assert same(everything(models[0], bare.optimizers), everything(models[1], watched.optimizers))


def test_stop_ends_the_run_in_good_order_whatever_its_minimum() -> None:
    trainer = fit(Shaken(poison), guarded("stop"), min_epochs=5)
    assert BEGIN + 25 <= trainer.global_step <= BEGIN + 90
    assert trainer.state.finished
    assert trainer.fit_loop.min_epochs == 5
    (note,) = Journal.of(trainer).notes
    assert note.startswith("LossSpikeGuard stopped the run at step 1")
    assert note.endswith(": LT807")


def test_it_gives_up_after_too_many_rollbacks_and_goes_on() -> None:
    guard = guarded(max_rollbacks=1)
    trainer = fit(Shaken(mislabel), guard, max_epochs=6)
    assert guard.rollbacks == 1
    (finding,) = found(trainer, "LT807")
    assert finding.count == 2
    assert finding.message.endswith("; given up after 1 rollback (`max_rollbacks`)")
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 2)
    assert trainer.global_step == 300


def test_without_a_state_of_before_it_says_so() -> None:
    class Late(LossSpikeGuard):
        """As if every copy had been found to be broken."""

        def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
            super().on_train_batch_start(trainer, *arguments)
            self._rollback.end()  # type: ignore[union-attr]

    guard = Late()
    (finding,) = found(fit(Shaken(poison), guard), "LT807")
    assert "; there is no sound state of step " in finding.message
    assert guard.rollbacks == 0


def test_a_slow_divergence_is_undone_too() -> None:
    def creep(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.where(torch.rand(y.shape) < (number - 200) / 300, torch.randint(3, y.shape), y)

    guard = guarded(snapshot_every_n_steps=50)
    trainer = fit(Shaken(creep), guard, max_epochs=12)
    (finding,) = found(trainer, "LT802")
    assert finding.severity is Severity.WARNING
    assert "; went back to the weights of step " in finding.message


def test_a_finding_that_is_to_be_raised_finds_the_weights_put_back() -> None:
    model, guard = Shaken(poison), guarded()
    trainer = quiet_trainer(callbacks=[guard], max_epochs=5)
    Journal.of(trainer).configure(on_finding="raise")
    with pytest.raises(TuningError, match="went back to the weights of step 90"):
        trainer.fit(model)
    assert guard.rollbacks == 1


def test_under_accumulation_it_acts_between_windows_and_judges_whole_losses() -> None:
    class Window(pl.Callback):
        """Notes at which batch of its window the weights are put back."""

        def __init__(self) -> None:
            self.at: list[int] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
            if guard.rollbacks > len(self.at):
                self.at.append((arguments[-1] + 1) % 2)

    guard, window, model = guarded(snapshot_every_n_steps=15), Window(), Shaken(poison)
    trainer = fit(model, guard, window, accumulate_grad_batches=2, max_epochs=6)
    (finding,) = found(trainer, "LT807")
    assert finding.evidence["loss"] > 2 * finding.evidence["usual"]
    assert finding.step in (BEGIN // 2, BEGIN // 2 + 1)
    assert window.at == [0]
    assert sum(model.curve[-30:]) < 1.5 * sum(model.curve[BEGIN - 30 : BEGIN])


def test_a_schedule_goes_on_below() -> None:
    def schedule(optimizer: Any) -> dict[str, Any]:
        return {"scheduler": ExponentialLR(optimizer, 0.99), "interval": "step"}

    model = Shaken(poison, schedule=schedule)
    trainer = fit(model, guarded())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 0.1 * 0.99**250)


def test_manual_optimization_is_not_judged_nor_copied() -> None:
    guard = guarded()
    trainer = fit(ManualGAN(batches=20), guard)
    assert guard.rollbacks == 0
    assert Journal.of(trainer).notes == ["LossSpikeGuard judged nothing: no single loss tells how this run goes."]


@pytest.mark.parametrize("first", [guarded, NanLossGuard], ids=["spike guard first", "NaN guard first"])
def test_two_ways_back_in_one_run_do_not_fight(first: Callable[[], pl.Callback]) -> None:
    def both(module: Shaken, number: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if number == BEGIN + 10:  # in the middle of the spike, which is undone by it
            return x * float("nan"), y
        return poison(module, number, x, y) if number < 160 else poison(module, number - 60, x, y)

    nan, spike = NanLossGuard("rollback", snapshot_every_n_steps=20), guarded()
    callbacks: list[pl.Callback] = [spike, nan] if first is guarded else [nan, spike]
    model = Shaken(both)
    trainer = fit(model, *callbacks, max_epochs=6)
    assert {finding.code for finding in found(trainer, "LT701", "LT702", "LT807")} == {"LT701", "LT807"}
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert sum(model.curve[-30:]) < 1.5 * sum(model.curve[BEGIN - 30 : BEGIN])
    assert 1 <= spike.rollbacks <= 2


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("epoch", [3, 4])
def test_resumed_it_knows_what_it_knew(epoch: int, tmp_path: Path) -> None:
    # 40 batches an epoch: the checkpoints are of before the spike and of its middle.
    models = [Shaken(poison, batches=40) for _ in range(2)]
    guards = [guarded("warn") for _ in range(2)]
    unbroken = fit(models[0], guards[0], checkpoints(tmp_path), enable_checkpointing=True)
    trainer = quiet_trainer(callbacks=[guards[1]], max_epochs=5)
    path = tmp_path / f"epoch={epoch - 1}.ckpt"
    assert torch.load(path, weights_only=True)["lightning_tuning"]["LossSpikeGuard"]["watch"]["spike"]
    trainer.fit(models[1], ckpt_path=path)
    assert guards[1].tuning_state() == guards[0].tuning_state()
    assert found(trainer) == found(unbroken)
    assert len(found(trainer)) == 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_rollbacks_are_counted_through_a_resume(tmp_path: Path) -> None:
    guard = guarded(max_rollbacks=1)
    fit(Shaken(mislabel), guard, checkpoints(tmp_path), enable_checkpointing=True)
    assert guard.rollbacks == 1
    resumed = guarded(max_rollbacks=1)
    trainer = quiet_trainer(callbacks=[resumed], max_epochs=6)
    trainer.fit(Shaken(mislabel), ckpt_path=tmp_path / "epoch=3.ckpt")
    assert resumed.rollbacks == 1
    assert "given up after 1 rollback" in found(trainer, "LT807")[0].message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "skip"}, "`action` must be one of"),
        ({"factor": 1.0}, "`factor` must be a number above 1, got 1.0"),
        ({"factor": math.nan}, "`factor` must be a number above 1, got nan"),
        ({"zscore": 0.0}, "`zscore` must be a number above 0, got 0.0"),
        ({"patience": 0}, "`patience` must be an integer of at least 1, got 0"),
        ({"recovery": 3}, "`recovery` must be an integer of at least 4, got 3"),
        ({"window": 39}, "`window` must be an integer of at least 40, got 39"),
        ({"window": 50, "recovery": 45}, "`window` must be above `patience` \\+ `recovery` = 50, got 50"),
        ({"lr_factor": 0.0}, "`lr_factor` must be"),
        ({"max_rollbacks": 0}, "`max_rollbacks` must be"),
        ({"snapshot_every_n_steps": 1.5}, "`snapshot_every_n_steps` must be"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSpikeGuard(**arguments)


RUNS: dict[str, dict[str, Any]] = {
    "rollback": {},
    "accumulation": {"accumulate_grad_batches": 2},
}


def train_ranks(rank: int) -> dict[str, Any]:
    """Only the batches of rank 1 are poisoned."""
    ends = {}
    for name, settings in RUNS.items():
        guard, model = guarded(), Shaken(ruin if rank else None, seed=rank, batches=50)
        model.load_state_dict(Shaken().state_dict())
        trainer = quiet_trainer(
            callbacks=[guard], strategy=gloo(), devices=2, use_distributed_sampler=False, max_epochs=5, **settings
        )
        trainer.fit(model)
        ends[name] = {
            "weights": {key: value.clone() for key, value in model.state_dict().items()},
            "rollbacks": [(record.at_step, record.to_step) for record in guard._rollback.records],  # type: ignore[union-attr]
            "state": guard.tuning_state()["watch"],
            "findings": [finding.to_dict() for finding in Journal.of(trainer).findings],
            "before": sum(model.curve[BEGIN - 30 : BEGIN]),
            "after": sum(model.curve[-30:]),
        }
    return ends


def test_two_ranks_go_back_together_when_one_is_thrown_off() -> None:
    one, other = on_two_ranks(train_ranks)
    for name in RUNS:
        for key in ("rollbacks", "state", "findings"):
            assert one[name][key] == other[name][key], key
        assert same(one[name]["weights"], other[name]["weights"])
        assert len(one[name]["rollbacks"]) == 1
        (finding,) = [f for f in one[name]["findings"] if f["code"] == "LT807"]
        assert (finding["severity"], finding["count"]) == ("warning", 1)
        assert all(end[name]["after"] < end[name]["before"] + 1.5 for end in (one, other))  # of 30 losses, 1.1 each


def test_on_a_device_the_host_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_tuning.guards._loss_feed import LossFeed, Sent

    class Event:
        waited = 0

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            Event.waited += 1

    monkeypatch.setattr(torch, "get_device_module", lambda *_: type("module", (), {"Event": Event}))
    with fake_cuda(landings=2) as make:
        feed = LossFeed()
        for step in range(2):
            loss = make(1)
            feed.send(Sent(step, 0.1), loss, loss.device)
            assert feed.take() == []
    assert Event.waited == 0
