"""LT903: whatever saves and however it is configured, no broken weights are written and no good file goes."""

from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lightning_tuning import Journal, NanLossGuard, TuningError, TuningSuite
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import BNConvNet, Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    # Lightning's own, at any fit with an OnExceptionCheckpoint.
    pytest.mark.filterwarnings("ignore:`?.fit.ckpt_path=.*. (was called|is set):UserWarning"),
    # Resumed in the middle of an epoch, as bare Lightning would.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning"),
]

NAN, INF = float("nan"), float("inf")
STEPS = 8  # of an epoch

Break = Callable[[pl.LightningModule], None]


def weight(module: pl.LightningModule) -> None:
    module.net[0].weight.data[1] = NAN


class _Breaks:
    """Mixed into a net: after update ``at`` something in it is broken; at ``raises`` its own code fails."""

    def __init__(self, at: int = 12, do: Break = weight, raises: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.at, self.do, self.raises = at, do, raises

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.global_step + 1 == self.at:
            self.do(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == self.raises:
            raise ZeroDivisionError("of the user's own")


class Breaks(_Breaks, Mlp):
    pass


class BreaksBN(_Breaks, BNConvNet):
    pass


def fit(model: pl.LightningModule, *callbacks: pl.Callback, path: Any = None, **settings: Any) -> pl.Trainer:
    usual = {"enable_checkpointing": True, "max_epochs": 3}
    trainer = quiet_trainer(callbacks=list(callbacks), **{**usual, **settings})
    trainer.fit(model, ckpt_path=path)
    return trainer


def failing(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> TuningError:
    with pytest.raises(TuningError) as caught:
        fit(model, *callbacks, **settings)
    return caught.value


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """The checkpoints in ``folder``; a link to nowhere cannot be read."""
    return {path.name: torch.load(path, weights_only=True) for path in sorted(folder.rglob("*.ckpt"))}


def assert_good(folder: Path) -> None:
    for name, held in files(folder).items():
        assert all(bool(value.isfinite().all()) for value in held["state_dict"].values()), name


def assert_books_are_true(checkpoint: ModelCheckpoint) -> None:
    for path in (checkpoint.best_model_path, checkpoint.last_model_path, *checkpoint.best_k_models):
        assert not path or Path(path).exists(), path


SETTINGS: dict[str, dict[str, Any]] = {
    "every step, one": {"every_n_train_steps": 1},
    "every step, all": {"every_n_train_steps": 1, "save_top_k": -1},
    "every step, none but the last": {"every_n_train_steps": 1, "save_top_k": 0, "save_last": True},
    "every step, one and the last": {"every_n_train_steps": 1, "save_last": True},
    "every step, one and a link": {"every_n_train_steps": 1, "save_last": "link"},
    "every other step, all and a link": {"every_n_train_steps": 2, "save_last": "link", "save_top_k": -1},
    "every third step, the best two": {"every_n_train_steps": 3, "monitor": "train_loss", "save_top_k": 2},
    "every step, the best": {"every_n_train_steps": 1, "monitor": "noise", "save_top_k": 1, "mode": "max"},
    "a metric that is NaN": {"every_n_train_steps": 1, "monitor": "odd", "save_top_k": 2},
    "weights only": {"every_n_train_steps": 1, "save_weights_only": True},
    "one file, overwritten": {"every_n_train_steps": 1, "filename": "it", "enable_version_counter": False},
    "all the time": {"train_time_interval": dt.timedelta(0)},
    "after validation": {"monitor": "val_loss"},
    "after validation, with a link": {"monitor": "val_loss", "save_last": "link"},
    "epochs, after training": {"every_n_epochs": 1, "save_on_train_epoch_end": True, "save_last": True},
    "every second epoch": {"every_n_epochs": 2, "save_last": True},
    "on exception": {"every_n_train_steps": 5, "save_on_exception": True, "save_last": True},
    "default": {},
}


class Logs(Breaks):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("odd", NAN)
        self.log("noise", float(self.global_step))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("name", SETTINGS)
def test_good_files_stay_and_no_other_comes(name: str, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, **SETTINGS[name])
    error = failing(Logs(), NanLossGuard(), checkpoint)
    assert error.finding.code in ("LT703", "LT903")  # the weights are looked at when an epoch ends, too
    assert_good(tmp_path)
    assert_books_are_true(checkpoint)
    saved = files(tmp_path)
    assert saved or name == "every second epoch"
    if error.finding.code == "LT903":
        assert error.finding.evidence["path"].startswith(str(tmp_path))
        assert Path(error.finding.evidence["kept"]).name in saved
        assert error.finding.where == "net.0.weight"


@pytest.mark.parametrize("name", ["every step, one", "every step, one and a link", "epochs, after training"])
def test_bare_lightning_drives_the_good_ones_away(name: str, tmp_path: Path) -> None:
    fit(Breaks(), ModelCheckpoint(tmp_path, **SETTINGS[name]), max_epochs=2)
    held = files(tmp_path)
    assert held
    assert not any(bool(one["state_dict"]["net.0.weight"].isfinite().all()) for one in held.values())


def test_the_error_names_file_and_way_on(tmp_path: Path) -> None:
    error = failing(Breaks(), NanLossGuard(), ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3))
    finding = error.finding
    assert finding.message == "net.0.weight is not finite: step=12.ckpt was not written, step=9.ckpt stays"
    assert (finding.code, finding.step) == ("LT903", 12)
    assert f"ckpt_path={str(tmp_path / 'step=9.ckpt')!r}" in finding.remedy
    assert sorted(files(tmp_path)) == ["step=9.ckpt"]


def test_the_run_goes_on_from_what_stayed(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4)
    failing(Breaks(12), NanLossGuard(), checkpoint)
    kept = checkpoint.best_model_path
    assert Path(kept).name == "step=8.ckpt"
    again = ModelCheckpoint(tmp_path / "again", filename="{step}", every_n_train_steps=4)
    trainer = fit(Mlp(), NanLossGuard(), again, path=kept)
    bare = fit(Mlp(), path=kept, enable_checkpointing=False)
    assert trainer.global_step == 3 * STEPS
    assert_identical(dict(trainer.lightning_module.state_dict()), dict(bare.lightning_module.state_dict()))
    assert Path(again.best_model_path).name == "step=24.ckpt"


def test_several_checkpoints(tmp_path: Path) -> None:
    each = ModelCheckpoint(tmp_path / "each", every_n_train_steps=1, save_last=True)
    best = ModelCheckpoint(tmp_path / "best", monitor="train_loss", every_n_train_steps=2, save_top_k=2)
    epochs = ModelCheckpoint(tmp_path / "epochs", monitor="val_loss")
    assert failing(Breaks(), NanLossGuard(), each, best, epochs).finding.code == "LT903"
    for checkpoint in (each, best, epochs):
        assert_good(Path(checkpoint.dirpath))
        assert_books_are_true(checkpoint)
        assert checkpoint.best_model_path
    assert [len(files(tmp_path / name)) for name in ("each", "best", "epochs")] == [2, 2, 1]


class Queued(AsyncCheckpointIO):
    """Removes a file once it is written: Lightning's own may do so in the middle, and fails then with another error."""

    def remove_checkpoint(self, path: Any) -> None:
        if self._executor is not None:
            self._executor.submit(lambda: None).result()
        super().remove_checkpoint(path)


def test_written_by_another_thread(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    failing(Breaks(), NanLossGuard(), checkpoint, plugins=[Queued()])
    assert_good(tmp_path)
    assert Path(checkpoint.best_model_path).name in files(tmp_path)


def test_a_suite_has_it_too(tmp_path: Path) -> None:
    assert failing(Breaks(), TuningSuite(), ModelCheckpoint(tmp_path, every_n_train_steps=1)).finding.code == "LT903"
    assert_good(tmp_path)


class Saves(pl.Callback):
    """A user's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path / f"{trainer.global_step}.ckpt", weights_only=trainer.global_step % 2 == 0)


@pytest.mark.parametrize("at", [12, 13])
def test_saved_by_hand(at: int, tmp_path: Path) -> None:
    error = failing(Breaks(at), NanLossGuard(), Saves(tmp_path), enable_checkpointing=False)
    assert (error.finding.code, error.finding.step) == ("LT903", at)
    assert len(files(tmp_path)) == at - 1
    assert_good(tmp_path)


def test_saved_after_the_run(tmp_path: Path) -> None:
    model = Mlp()
    trainer = fit(model, NanLossGuard(), max_epochs=1, enable_checkpointing=False)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    weight(model)
    with pytest.raises(TuningError, match="LT903"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert list(files(tmp_path)) == ["good.ckpt"]


def running_variance(module: pl.LightningModule) -> None:
    module.net[1].running_var[2] = INF


def running_mean(module: pl.LightningModule) -> None:
    module.net[4].running_mean[0] = NAN


def momentum(module: pl.LightningModule) -> None:
    state = module.optimizers().state[module.net[0].weight]
    state["momentum_buffer"][0] = NAN


def frozen(module: pl.LightningModule) -> None:
    module.net[3].weight.requires_grad_(False)[0] = NAN


@pytest.mark.parametrize(
    ("do", "where"),
    [
        (running_variance, "net.1.running_var"),
        (running_mean, "net.4.running_mean"),
        (momentum, "net.0.weight (momentum_buffer)"),
        (frozen, "net.3.weight"),
    ],
)
def test_more_than_weights_can_be_broken(do: Break, where: str, tmp_path: Path) -> None:
    error = failing(BreaksBN(5, do), NanLossGuard(), ModelCheckpoint(tmp_path, every_n_train_steps=1))
    assert (error.finding.code, error.finding.where, error.finding.step) == ("LT903", where, 5)
    assert len(files(tmp_path)) == 1


def test_optimizer_state_counts_where_it_is_saved(tmp_path: Path) -> None:
    class Stops(BreaksBN):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = self.global_step >= self.at

    fit(Stops(5, momentum), NanLossGuard(), ModelCheckpoint(tmp_path, every_n_train_steps=5, save_weights_only=True))
    assert len(files(tmp_path)) == 1


class Masked(Mlp):
    """All that is infinite, or NaN from the start, and well."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -INF).triu(1))
        self.register_buffer("late_mask", torch.zeros(3))
        self.register_buffer("best", torch.tensor(0.0))
        self.register_buffer("unset", torch.full((2,), NAN))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.bias = nn.Parameter(torch.tensor([0.0, -INF]), requires_grad=False)
        self.lazy: Tensor | None

    def on_train_batch_end(self, *_: Any) -> None:
        self.late_mask[1:] = -INF
        self.best.fill_(INF)
        self.scratch[0] = NAN
        if "cache" not in self._buffers:
            self.register_buffer("cache", torch.full((2,), INF))


def test_masks_and_marks_are_well(tmp_path: Path) -> None:
    trainer = fit(Masked(), NanLossGuard(), ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1))
    assert Journal.of(trainer).findings == []
    assert len(files(tmp_path)) == 3 * STEPS


def test_averaged_weights_are_looked_at(tmp_path: Path) -> None:
    average = EMAWeightAveraging()

    def spoil(module: pl.LightningModule) -> None:
        average._average_model.module.net[0].weight.data[0] = NAN

    error = failing(Breaks(5, spoil), NanLossGuard(), average, Saves(tmp_path), enable_checkpointing=False)
    assert (error.finding.code, error.finding.where) == ("LT903", "net.0.weight (state_dict)")
    assert_good(tmp_path)


@pytest.mark.parametrize("broken", [False, True])
def test_an_exception_of_the_users_own_stays_what_it_is(broken: bool, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "mine", save_on_exception=True, save_last=True, every_n_train_steps=5)
    last = OnExceptionCheckpoint(tmp_path / "theirs")
    model = Breaks(12 if broken else 99, raises=12)
    trainer = quiet_trainer(callbacks=[NanLossGuard(), checkpoint, last], enable_checkpointing=True, max_epochs=3)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model)
    assert_good(tmp_path)
    assert_books_are_true(checkpoint)
    assert bool(files(tmp_path / "theirs")) is not broken
    steps = {held["global_step"] for held in files(tmp_path / "mine").values()}
    assert steps == ({10} if broken else {10, 12})
    notes = [note for note in Journal.of(trainer).notes if "LT903" in note]
    assert len(notes) == broken
    assert not {"on_exception", "on_train_batch_end"} & vars(checkpoint).keys()
    assert "on_exception" not in vars(last)


def test_an_interrupt_from_the_keyboard(tmp_path: Path) -> None:
    class Interrupted(Breaks):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step == self.at:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(Interrupted(), NanLossGuard(), ModelCheckpoint(tmp_path, save_on_exception=True, every_n_train_steps=5))
    assert_good(tmp_path)
    assert len(files(tmp_path)) == 1


def test_the_guards_own_error_leaves_a_checkpoint_of_sound_weights(tmp_path: Path) -> None:
    class BadLoss(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * NAN if self.global_step == 5 else loss

    error = failing(BadLoss(), NanLossGuard(), ModelCheckpoint(tmp_path, save_on_exception=True))
    assert error.finding.code == "LT701"
    assert len(files(tmp_path)) == 1
    assert_good(tmp_path)


@pytest.mark.parametrize("name", ["after validation", "every second epoch", "default", "epochs, after training"])
def test_a_run_that_is_stopped_ends_in_good_order_and_saves_nothing_broken(name: str, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, **SETTINGS[name])
    trainer = fit(Breaks(), NanLossGuard("stop"), checkpoint)
    assert trainer.global_step == 13
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT703"]
    assert_good(tmp_path)
    assert_books_are_true(checkpoint)
    assert not [hook for hook in vars(checkpoint) if hook.startswith("on_")]
    assert bool(files(tmp_path)) is (name != "every second epoch")


def momentum_and_weight(module: pl.LightningModule) -> None:
    weight(module)
    momentum(module)


@pytest.mark.parametrize("name", ["every step, one", "every step, one and a link", "weights only", "after validation"])
@pytest.mark.parametrize("do", [weight, momentum, momentum_and_weight])
def test_a_run_that_can_go_back_does_so_before_it_saves(name: str, do: Break, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, **SETTINGS[name])
    guard = NanLossGuard("rollback", snapshot_every_n_steps=3)
    trainer = fit(Breaks(2 * STEPS, do), guard, checkpoint)
    assert trainer.global_step == 3 * STEPS
    codes = [finding.code for finding in Journal.of(trainer).findings]
    assert codes == ["LT703"]
    assert_good(tmp_path)
    assert_books_are_true(checkpoint)
    for held in files(tmp_path).values():
        for state in held.get("optimizer_states", []):
            assert all(bool(own["momentum_buffer"].isfinite().all()) for own in state["state"].values())
    if name != "weights only":
        resumed = fit(Mlp(), NanLossGuard(), path=checkpoint.best_model_path, max_epochs=4)
        assert [finding.code for finding in Journal.of(resumed).findings] == ["LT703"]  # the saved one


def test_a_run_that_went_back_too_often_raises_and_keeps_the_good_file(tmp_path: Path) -> None:
    class Again(Breaks):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            if self.global_step + 1 >= self.at:
                self.do(self)

    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    error = failing(Again(), NanLossGuard("rollback", snapshot_every_n_steps=3, max_rollbacks=1), checkpoint)
    assert error.finding.code in ("LT703", "LT903")
    assert_good(tmp_path)
    assert_books_are_true(checkpoint)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("action", ["raise", "skip", "stop", "rollback"])
def test_a_healthy_run_saves_what_bare_lightning_saves(action: Any, tmp_path: Path) -> None:
    settings = {"monitor": "val_loss", "save_top_k": 2, "save_last": True, "filename": "{step}"}
    guarded, bare = (ModelCheckpoint(tmp_path / name, **settings) for name in ("guarded", "bare"))
    fit(BNConvNet(), NanLossGuard(action), guarded)
    fit(BNConvNet(), bare)
    held, expected = files(tmp_path / "guarded"), files(tmp_path / "bare")
    assert held.keys() == expected.keys()
    for name, one in held.items():
        assert_identical(one["state_dict"], expected[name]["state_dict"])
        assert_identical(one["optimizer_states"], expected[name]["optimizer_states"])
    assert Path(guarded.best_model_path).name == Path(bare.best_model_path).name


def test_a_second_fit_of_the_same_trainer(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, save_on_exception=True, every_n_train_steps=1)
    trainer = quiet_trainer(callbacks=[NanLossGuard(), checkpoint], enable_checkpointing=True)
    with pytest.raises(TuningError, match="LT903"):
        trainer.fit(Breaks(4))
    trainer.fit(Mlp(), ckpt_path=checkpoint.best_model_path)
    assert trainer.global_step == STEPS
    assert_good(tmp_path)
    assert files(tmp_path)[Path(checkpoint.best_model_path).name]["global_step"] == STEPS


def test_a_trainer_can_be_pickled_after_its_run(tmp_path: Path) -> None:
    guard = NanLossGuard()
    trainer = fit(Mlp(), guard, max_epochs=1, enable_checkpointing=False)
    strategy = pickle.loads(pickle.dumps(trainer.strategy))
    strategy.save_checkpoint({"state_dict": {}}, tmp_path / "it.ckpt")
    assert (tmp_path / "it.ckpt").exists()
    assert pickle.loads(pickle.dumps(guard)).skipped == 0


class Sharded(Breaks):
    """Each rank has half of every weight, and the second breaks its own half."""

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            mesh = self.device_mesh["data_parallel"]
            for layer in (self.net[0], self.net[2], self.net[4]):
                fully_shard(layer, mesh=mesh)
            fully_shard(self, mesh=mesh)


def own_half(module: pl.LightningModule) -> None:
    with torch.no_grad():
        module.net[0].weight.to_local()[1] = NAN


def on_a_rank(rank: int, folder: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, culprits in {"first": (0,), "second": (1,), "both": (0, 1), "sharded": (1,)}.items():
        checkpoint = ModelCheckpoint(Path(folder, name), every_n_train_steps=1, save_last=True)
        at = 3 if rank in culprits else 99
        model = Sharded(at, own_half) if name == "sharded" else Breaks(at)
        strategy = ModelParallelStrategy(2, 1, process_group_backend="gloo") if name == "sharded" else gloo()
        trainer = quiet_trainer(
            callbacks=[NanLossGuard(), checkpoint], strategy=strategy, devices=2, enable_checkpointing=True
        )
        try:
            trainer.fit(model)
        except TuningError as error:
            out[name] = error.finding.code, error.finding.step, error.finding.where, checkpoint.best_model_path
    return out


def test_ranks_refuse_together(tmp_path: Path) -> None:
    first, second = on_two_ranks(on_a_rank, str(tmp_path))
    assert first == second
    assert set(first) == {"first", "second", "both", "sharded"}
    for name, (code, step, where, best) in first.items():
        assert (code, step, where) == ("LT903", 3, "net.0.weight")
        assert "step=2" in Path(best).name
        assert sorted(path.name for path in Path(tmp_path, name).iterdir()) == [Path(best).name, "last.ckpt"]
        if name != "sharded":  # which writes folders
            assert_good(tmp_path / name)
