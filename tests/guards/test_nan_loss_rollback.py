"""``NanLossGuard(action="rollback")``: the run goes on from where it was sound, with smaller steps."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.amp import GradScaler

from lightning_tuning import Finding, Journal, NanLossGuard, PlateauLR, TuningError
from lightning_tuning.guards._rollback_record import RollbackRecord
from tests.guards.faulty import FaultyBN, FaultyGAN, FaultyMlp, same
from tests.guards.test_nan_loss_skip import ManualAccumulation
from tests.helpers import MODEL_KINDS, Mlp, TinyModule, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")

OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01),
    "adamw-fused": functools.partial(torch.optim.AdamW, lr=0.01, fused=True),
    "adamw-amsgrad": functools.partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
    "adagrad": functools.partial(torch.optim.Adagrad, lr=0.01),
    "lbfgs": functools.partial(torch.optim.LBFGS, lr=0.1, max_iter=3),
}


def state_of(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """What training moves: parameters, buffers, optimizer states; not the rates, which are cut."""
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    return copy.deepcopy({"module": dict(model.state_dict()), "optimizers": states})


class Diary(pl.Callback):
    """Stands behind the guard: the state at the start of every batch, and whether a batch's end equals an earlier."""

    def __init__(self) -> None:
        self.starts: dict[int, dict[str, Any]] = {}
        self.went_back: list[tuple[int, int]] = []
        self.rates: list[float] = []
        self._seen = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.starts.setdefault(trainer.global_step, state_of(pl_module, trainer.optimizers))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen = len(records(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._compare(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._compare(trainer, pl_module)

    def _compare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = records(trainer)
        if len(done) > self._seen:
            self._seen = len(done)
            assert same(self.starts[done[-1].to_step], state_of(pl_module, trainer.optimizers))
            assert all(parameter.grad is None for parameter in pl_module.parameters())
            self.went_back.append((done[-1].at_step, done[-1].to_step))


def guard_of(trainer: pl.Trainer) -> NanLossGuard:
    return next(callback for callback in trainer.callbacks if isinstance(callback, NanLossGuard))


def records(trainer: pl.Trainer) -> list[RollbackRecord]:
    return guard_of(trainer)._rollback.records


def found(trainer: pl.Trainer) -> list[Finding]:
    return Journal.of(trainer).findings


def fit(
    model: pl.LightningModule, *callbacks: pl.Callback, every: int = 4, arguments: Any = None, **settings: Any
) -> tuple[pl.Trainer, Diary]:
    guard, diary = NanLossGuard("rollback", snapshot_every_n_steps=every, **(arguments or {})), Diary()
    trainer = quiet_trainer(callbacks=[guard, *callbacks, diary], **settings)
    trainer.fit(model)
    return trainer, diary


def is_finite(model: nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"snapshot_every_n_steps": 0}, "`snapshot_every_n_steps` must be .* got 0"),
        ({"snapshot_every_n_steps": 2.0}, "`snapshot_every_n_steps` must be .* got 2.0"),
        ({"max_rollbacks": 0}, "`max_rollbacks` must be .* got 0"),
        ({"max_rollbacks": True}, "`max_rollbacks` must be .* got True"),
        ({"lr_factor": 0}, "`lr_factor` must be .* got 0"),
        ({"lr_factor": 1.5}, "`lr_factor` must be .* got 1.5"),
        ({"lr_factor": math.nan}, "`lr_factor` must be .* got nan"),
        ({"lr_factor": "half"}, "`lr_factor` must be .* got 'half'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NanLossGuard("rollback", **arguments)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_run_is_the_same_bit_for_bit(kind: type[TinyModule]) -> None:
    ends = []
    for callbacks in ([], [NanLossGuard("rollback", snapshot_every_n_steps=3)]):
        torch.manual_seed(7)
        model, trainer = kind(batches=10), quiet_trainer(callbacks=callbacks, max_epochs=2)
        trainer.fit(model)
        ends.append([state_of(model, trainer.optimizers), torch.get_rng_state(), dict(trainer.callback_metrics)])
        assert found(trainer) == []
        assert Journal.of(trainer).notes == []
    assert same(*ends)


@pytest.mark.parametrize("fault", ["sample", "nan", "inf", "log", "gradient"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_goes_back_bit_for_bit(optimizer: str, fault: str) -> None:
    model = FaultyMlp({6: fault}, optimizer=OPTIMIZERS[optimizer], batches=12)
    trainer, diary = fit(model)
    assert diary.went_back == [(7, 4)]
    assert is_finite(model)
    (finding,) = found(trainer)
    assert finding.code == ("LT702" if fault == "gradient" else "LT701")
    assert finding.message.endswith("; the run goes back to the weights of step 4, learning rate x 0.5")
    assert diary.rates[7:] == [rate / 2 for rate in diary.rates[:5]]
    (record,) = records(trainer)
    assert (record.undone, len(record.after), record.is_back) == (3, 5, True)


def test_what_comes_after_is_what_a_run_from_there_would_do() -> None:
    """Bit for bit the run that starts from the state of step 4, with half the rate, at batch 7."""
    trainer, diary = fit(FaultyMlp({6: "sample"}, optimizer=OPTIMIZERS["adamw"], batches=12), max_steps=12)
    start = diary.starts[4]
    model = FaultyMlp(without=(0, 1, 2, 3, 4, 5, 6), optimizer=OPTIMIZERS["adamw"], batches=12)

    class Loads(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.load_state_dict(start["module"])
            groups = copy.deepcopy(trainer.optimizers[0].state_dict()["param_groups"])
            groups[0]["lr"] /= 2
            trainer.optimizers[0].load_state_dict({"state": start["optimizers"][0], "param_groups": groups})

    other = quiet_trainer(callbacks=[Loads()])
    other.fit(model)
    expected = state_of(model, other.optimizers)
    assert same(state_of(trainer.lightning_module, trainer.optimizers), expected)


def test_a_copy_waits_for_the_batch_after_it() -> None:
    """The state at the start of the bad batch was copied, and is not gone back to."""
    _, diary = fit(FaultyMlp({8: "sample"}, batches=12))
    assert diary.went_back == [(9, 4)]


def test_the_first_batch_may_be_bad() -> None:
    model = FaultyMlp({0: "sample"}, batches=6)
    _, diary = fit(model)
    assert diary.went_back == [(1, 0)]
    absent = FaultyMlp(without=(0,), batches=6, lr=0.05)
    quiet_trainer().fit(absent)
    assert same(dict(model.state_dict()), dict(absent.state_dict()))


def test_every_batch_is_told_of_and_the_fourth_raises() -> None:
    with pytest.raises(TuningError, match="given up after 2 rollbacks \\(`max_rollbacks`\\)") as error:
        fit(FaultyMlp(dict.fromkeys((5, 7, 9), "sample"), batches=12), arguments={"max_rollbacks": 2})
    assert error.value.finding.step == 9


def test_batch_norm_and_metrics() -> None:
    """Batch norm goes back; what was logged is the mean over all batches but the bad one."""
    model = FaultyBN({6: "sample"}, batches=10)
    trainer, diary = fit(model)
    assert diary.went_back == [(7, 4)]
    assert model.net[1].num_batches_tracked == 4 + 3
    assert all(bool(value.isfinite()) for value in trainer.callback_metrics.values())
    assert model.accuracy.update_count == 0  # reset at the epoch's end, not left over from an old copy


def test_early_stopping_that_checks_for_nan_does_not_stop() -> None:
    stopper = EarlyStopping("train_loss_epoch", check_finite=True, patience=10, check_on_train_epoch_end=True)
    trainer, _ = fit(FaultyMlp({2: "sample"}, batches=4), stopper, max_epochs=3)
    assert trainer.current_epoch == 3


@pytest.mark.parametrize("bad", [(6,), (7,), (8,), (6, 7), (6, 7, 8)])
def test_accumulation_goes_back_once_and_drops_the_window(bad: tuple[int, ...]) -> None:
    model = FaultyMlp(dict.fromkeys(bad, "sample"), batches=15)
    trainer, diary = fit(model, every=1, accumulate_grad_batches=3)
    assert [to_step for _, to_step in diary.went_back] == [1 if bad[0] == 6 else 2]
    assert guard_of(trainer).skipped == 1
    assert found(trainer)[0].count == len(bad)
    assert is_finite(model)


def test_accumulation_leaves_nothing_of_the_window() -> None:
    model = FaultyMlp({7: "sample"}, batches=15, lr=0.1)
    _, diary = fit(model, every=1, accumulate_grad_batches=3)
    assert diary.went_back == [(2, 2)]  # copied before batch 6, which was well: nothing but the window is undone
    absent = FaultyMlp(without=(6, 7, 8), batches=15)

    class Cuts(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] = 0.1 if trainer.global_step < 2 else 0.05

    quiet_trainer(accumulate_grad_batches=3, callbacks=[Cuts()]).fit(absent)
    assert same(dict(model.state_dict()), dict(absent.state_dict()))


@pytest.mark.parametrize("fault", ["d", "g"])
def test_several_optimizers_by_hand(fault: str) -> None:
    trainer, diary = fit(FaultyGAN({5: fault}, batches=10), every=4)
    assert diary.went_back == [(12, 8)]  # two steps per batch; the discriminator's of the bad batch is undone too
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [0.0005, 0.0005]
    assert is_finite(trainer.lightning_module)


def test_accumulation_by_hand() -> None:
    model = ManualAccumulation(faults={4: "sample"}, batches=10)
    _, diary = fit(model, every=1)
    assert diary.went_back == [(2, 1)]
    assert is_finite(model)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping(algorithm: str) -> None:
    model = FaultyMlp({6: "sample"}, batches=10)
    _, diary = fit(model, gradient_clip_val=0.5, gradient_clip_algorithm=algorithm)
    assert diary.went_back == [(7, 4)]


class Scheduled(FaultyMlp):
    """With a schedule of steps or epochs."""

    def __init__(self, interval: str, make: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interval, self.make = interval, make

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make(optimizer), "interval": self.interval, "monitor": "val_loss"},
        }


SCHEDULES = {
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 24, eta_min=0.001),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=6), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        [6],
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using:RuntimeWarning")
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_goes_on_at_half_the_rate(name: str, interval: str) -> None:
    plain = Diary()
    quiet_trainer(callbacks=[NanLossGuard("rollback"), plain], max_epochs=3).fit(
        Scheduled(interval, SCHEDULES[name], batches=6)
    )
    _, diary = fit(Scheduled(interval, SCHEDULES[name], faults={3: "sample"}, batches=6), every=50, max_epochs=3)
    assert diary.went_back == [(4, 0), (10, 0), (16, 0)]
    halvings = [sum(step >= at for at, _ in diary.went_back) for step in range(18)]
    expected = [rate / 2**times for rate, times in zip(plain.rates, halvings, strict=True)]
    assert diary.rates == pytest.approx(expected, rel=1e-9)


def test_an_epochs_cut_is_not_undone_with_the_weights() -> None:
    """The epoch's step of the schedule came between the copy and the bad batch."""

    class Later(Scheduled):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.faults = {1: "nan"} if self.current_epoch else {}
            return super().training_step(batch, batch_idx)

    model = Later("epoch", lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1), batches=4)
    trainer, diary = fit(model, every=50, max_epochs=2)
    assert diary.went_back == [(6, 0)]
    assert records(trainer)[0].rates == ("0.01", "0.005")


@pytest.mark.parametrize("own", [True, False])
def test_plateau(own: bool) -> None:
    settings: dict[str, Any] = {"factor": 0.1, "patience": 0, "threshold": 10.0, "threshold_mode": "abs"}
    if own:
        model, callbacks = FaultyMlp({3: "sample"}, batches=5), [PlateauLR("val_loss", **settings)]
    else:
        make = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, **settings)
        model, callbacks = Scheduled("epoch", make, faults={3: "sample"}, batches=5), []
    _, diary = fit(model, *callbacks, every=50, max_epochs=3)
    # halved by each of three rollbacks; a tenth after the second and the third reading, the last after the run
    assert diary.rates == pytest.approx(4 * [0.1] + 5 * [0.05] + [0.025] + [0.0025] * 4 + [0.00125], rel=1e-6)


def test_amp_scale_goes_back() -> None:
    scaler = GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
    model = FaultyMlp({7: "nan"}, optimizer=OPTIMIZERS["adamw"], batches=12)
    scales = []

    class Notes(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            scales.append((scaler.get_scale(), scaler._get_growth_tracker()))

    trainer, diary = fit(model, Notes(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert diary.went_back == [(8, 4)]
    assert scales[7] == scales[3]
    (record,) = records(trainer)
    assert 0.01 < record.before[0] < 10  # as the module returned it, not scaled
    assert record.is_back


def test_amp_search_is_no_reason() -> None:
    scaler = GradScaler("cpu", init_scale=2.0**24)
    trainer, _ = fit(FaultyMlp(batches=8), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert records(trainer) == []
    assert found(trainer) == []


# -- broken weights ----------------------------------------------------------------------------------------------------


class BreaksItself(FaultyMlp):
    """An update of its own makes a weight NaN after batch ``when`` of the first epoch."""

    def __init__(self, when: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.when = when

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.when and not self.current_epoch:
            with torch.no_grad():
                self.net[0].weight[1, 2] = float("inf")


def test_weights_broken_in_between_are_mended() -> None:
    model = BreaksItself(6, batches=12)
    trainer, diary = fit(model)
    assert diary.went_back == [(8, 4)]  # seen by the next batch
    assert [finding.code for finding in found(trainer)] == ["LT703"]
    assert is_finite(model)


def test_copies_of_broken_weights_do_not_count() -> None:
    """The state copied after the break: finite in what the next batch shows, infinite in a weight it does not use."""

    class Unused(FaultyMlp):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.unused = nn.Parameter(torch.zeros(2))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 6:
                with torch.no_grad():
                    self.unused.fill_(float("nan"))

    model = Unused(faults={10: "sample"}, batches=14)
    trainer, diary = fit(model)
    assert diary.went_back == [(11, 4)]
    assert is_finite(model)
    assert [finding.code for finding in found(trainer)] == ["LT703"]


def test_weights_broken_by_the_last_update_are_mended_before_they_are_saved(tmp_path: Any) -> None:
    model = BreaksItself(7, batches=8)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1)
    trainer, _ = fit(model, checkpoint, enable_checkpointing=True, max_epochs=2)
    assert [(record.at_step, record.to_step) for record in records(trainer)] == [(8, 4)]
    saved = [torch.load(path, weights_only=True)["state_dict"] for path in tmp_path.iterdir()]
    assert len(saved) == 2
    assert all(bool(value.isfinite().all()) for state in saved for value in state.values())


def test_weights_broken_before_the_first_step_raise() -> None:
    model = FaultyMlp()
    with torch.no_grad():
        model.net[0].weight.fill_(float("nan"))
    with pytest.raises(TuningError, match="there is no sound state to go back to"):
        fit(model)


def test_the_state_of_an_optimizer_that_overflowed_is_not_sound() -> None:
    """A gradient of 1e25 leaves weights finite and an infinite mean square, for ever."""

    class Spikes(FaultyMlp):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * 1e25 if batch_idx == 6 else loss

    model = Spikes(faults={10: "sample"}, optimizer=OPTIMIZERS["adamw"], batches=14)
    trainer, diary = fit(model)
    assert diary.went_back == [(11, 4)]
    assert all(s["exp_avg_sq"].isfinite().all() for s in trainer.optimizers[0].state.values())


# -- elsewhere ---------------------------------------------------------------------------------------------------------


def test_summary_tells_what_was_undone_and_what_came_after() -> None:
    trainer, _ = fit(FaultyMlp({6: "sample"}, batches=80))
    note = Journal.of(trainer).notes[-1]
    assert note.startswith(
        "rollback 1 of at most 3 at step 7 (LT701): went back to the weights of step 4 (3 steps undone), "
        "learning rate 0.1 -> 0.05; "
    )
    assert " s of training lost, " in note
    assert "; the next 50 batches were finite, the loss is back at its level (median " in note


def test_finding_counts_and_no_hint_of_a_growth_that_was_undone() -> None:
    trainer, _ = fit(FaultyMlp({6: "sample", 9: "sample"}, batches=12))
    assert [(finding.code, finding.count) for finding in found(trainer)] == [("LT701", 2)]
    assert len(records(trainer)) == 2
    assert "another rollback after 2 batches" in Journal.of(trainer).notes[-2]


def test_resumed_run_keeps_the_rate_and_the_count(tmp_path: Any) -> None:
    model = FaultyMlp({6: "sample"}, batches=8)
    trainer, _ = fit(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = quiet_trainer(
        callbacks=[again := NanLossGuard("rollback", snapshot_every_n_steps=4, max_rollbacks=2), Diary()], max_epochs=2
    )
    resumed.fit(FaultyMlp({6: "sample"}, batches=8), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert [(record.number, record.at_step) for record in again._rollback.records] == [(1, 7), (2, 15)]
    assert resumed.optimizers[0].param_groups[0]["lr"] == 0.025
    assert "resumed from a checkpoint after 1 batch" in Journal.of(resumed).notes[-2]
    third = quiet_trainer(callbacks=[NanLossGuard("rollback", max_rollbacks=2)], max_epochs=3)
    resumed.save_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(TuningError, match="given up after 2 rollbacks"):
        third.fit(FaultyMlp({6: "sample"}, batches=8), ckpt_path=tmp_path / "b.ckpt", weights_only=True)


@pytest.mark.parametrize("action", ["raise", "skip", "stop"])
def test_two_guards_must_agree(action: str) -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard("rollback"), NanLossGuard(action)])
    with pytest.raises(MisconfigurationException, match=f"`action` must be one .* got 'rollback' and '{action}'"):
        trainer.fit(Mlp())


def test_on_finding_raise_raises_for_a_rollback_too() -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard("rollback")])
    Journal.of(trainer).configure(on_finding="raise")
    with pytest.raises(TuningError):
        trainer.fit(FaultyMlp({3: "sample"}))


def test_lazy_modules_are_waited_for() -> None:
    model = FaultyMlp({3: "sample"})
    model.net = nn.Sequential(nn.LazyLinear(3))
    _, diary = fit(model, num_sanity_val_steps=0)
    assert diary.went_back == [(4, 1)]


def test_buffers_that_a_step_replaces_or_adds() -> None:
    class Moving(FaultyMlp):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("later", None)
            self.register_buffer("wide", torch.zeros(1).expand(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
                self.later = x.mean(0) if self.global_step > 4 else None
            return super().forward(x)

    _, diary = fit(Moving(faults={6: "sample"}, batches=10))
    assert diary.went_back == [(7, 4)]


class Wraps(torch.optim.Optimizer):
    """An optimizer around another, with an estimate of its own in the group, as Prodigy has."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(list(parameters), {"lr": lr, "estimate": 0})
        self.inner = torch.optim.SGD(self.param_groups, lr=lr, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        self.inner.step()
        for group in self.param_groups:
            group["estimate"] += 1
        return loss


def test_state_inside_of_an_optimizer() -> None:
    trainer, diary = fit(FaultyMlp({6: "sample"}, optimizer=Wraps, batches=10))
    assert diary.went_back == [(7, 4)]
    assert trainer.optimizers[0].param_groups[0]["estimate"] == 4 + 3
    assert all(state["momentum_buffer"].isfinite().all() for state in trainer.optimizers[0].inner.state.values())


def test_replaced_parameters_are_not_mixed_with_old_ones() -> None:
    class Replaces(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.net[0] = nn.Linear(8, 16)
                trainer.optimizers[0].add_param_group({"params": pl_module.net[0].parameters()})

    class Later(FaultyMlp):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.faults = {2: "nan"} if self.current_epoch else {}
            return super().training_step(batch, batch_idx)

    model = Later(batches=6)
    _, diary = fit(model, Replaces(), every=50, max_epochs=2)
    assert diary.went_back == [(9, 6)]
    assert is_finite(model)


@pytest.mark.parametrize("compiled", ["net", "net.0"])
def test_compiled_submodules(compiled: str) -> None:
    model = FaultyMlp({6: "sample"}, batches=10)
    model.get_submodule(compiled).compile(backend="eager")
    _, diary = fit(model)
    assert diary.went_back == [(7, 4)]
    assert is_finite(model)


def test_second_fit_starts_anew() -> None:
    trainer, _ = fit(FaultyMlp({2: "sample"}))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(FaultyMlp())
    assert records(trainer) == []


def test_pickles_without_its_copies() -> None:
    trainer, _ = fit(FaultyMlp({2: "sample"}))
    guard = pickle.loads(pickle.dumps(guard_of(trainer)))
    assert (guard.action, guard.lr_factor, len(guard._rollback.records)) == ("rollback", 0.5, 1)
