"""Exports beside checkpoints: what is in them, that they keep in step, and that a bad one drives no good one away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_tuning import ExportState, Journal, NanLossGuard, TuningError, TuningWarning
from lightning_tuning.functional import load_state
from lightning_tuning.treatments import export_state
from lightning_tuning.treatments._export_limits import refuse_shards
from tests.helpers import Mlp, blobs, quiet_trainer
from tests.ranks import gloo, on_two_ranks

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")


def every_epoch(**arguments: Any) -> ModelCheckpoint:
    settings = {"filename": "{epoch}", "save_top_k": -1, "save_on_train_epoch_end": True, **arguments}
    return ModelCheckpoint("kept", **settings)


def fit(*callbacks: pl.Callback, model: pl.LightningModule | None = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(
        **{"callbacks": list(callbacks), "enable_checkpointing": saves, "max_epochs": 3, **settings}
    )
    trainer.fit(Mlp() if model is None else model)
    return trainer


def names(folder: str = "kept") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def read(path: str | Path) -> Any:
    return load_file(path) if str(path).endswith("safetensors") else torch.load(path, weights_only=True)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_beside_each_checkpoint_lies_its_state(ending: str) -> None:
    callback = ExportState(format=ending)
    fit(callback, every_epoch())
    assert names() == [f"epoch={epoch}.{end}" for epoch in range(3) for end in ("ckpt", ending)]
    for epoch in range(3):
        saved = torch.load(f"kept/epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        assert equal(read(f"kept/epoch={epoch}.{ending}"), dict(saved))
    assert [Path(file).name for file in callback.files] == [f"epoch={epoch}.{ending}" for epoch in range(3)]


def test_a_bare_net_takes_it() -> None:
    trainer = fit(ExportState("{checkpoint}.net.pth", prefix_strip="net."), every_epoch())
    net = Mlp(seed=9).net
    net.load_state_dict(torch.load("kept/epoch=2.net.pth", weights_only=True), strict=True)
    assert equal(dict(net.state_dict()), dict(trainer.lightning_module.net.state_dict()))


@pytest.mark.parametrize(
    "arguments", [{"save_top_k": 1}, {"save_top_k": 2, "monitor": "val_loss"}, {"save_last": True}]
)
def test_it_goes_with_its_checkpoint(arguments: dict[str, Any]) -> None:
    callback = ExportState()
    fit(callback, every_epoch(**arguments))
    stems = {name.removesuffix(".ckpt") for name in names() if name.endswith(".ckpt")}
    assert stems
    assert {name.removesuffix(".pth") for name in names() if name.endswith(".pth")} == stems
    assert {Path(file).stem for file in callback.files} == stems


def test_after_a_resume_it_goes_on_to_keep_in_step() -> None:
    def best() -> ModelCheckpoint:
        return every_epoch(save_top_k=2, monitor="val_loss")

    fit(ExportState(), best(), max_epochs=2)
    trainer = quiet_trainer(callbacks=[ExportState(), best()], enable_checkpointing=True, max_epochs=4)
    trainer.fit(Mlp(), ckpt_path="kept/epoch=1.ckpt")  # which Lightning keeps: it is the one that it goes on from
    assert names() == [f"epoch={epoch}.{end}" for epoch in (1, 2, 3) for end in ("ckpt", "pth")]


def test_one_path_holds_the_latest() -> None:
    trainer = fit(ExportState("out/{name}.pth"), ExportState("out/latest.pth"), every_epoch(save_top_k=1))
    assert names("out") == ["epoch=2.pth", "latest.pth"]
    assert equal(read("out/latest.pth"), dict(trainer.lightning_module.state_dict()))
    notes = [note for note in Journal.of(trainer).notes if note.startswith("ExportState")]
    assert notes == [
        "ExportState wrote 3 files, of which 1 stayed, the last one out/epoch=2.pth",
        "ExportState wrote 3 files, of which 1 stayed, the last one out/latest.pth",
    ]


def test_at_the_end() -> None:
    trainer = fit(ExportState(when="end"), ExportState("out/a.pth", when="end", contents="training"))
    assert equal(read("model.pth"), dict(trainer.lightning_module.state_dict()))
    assert read("out/a.pth")["iteration"] == 24


def test_without_a_checkpoint_it_says_that_there_is_none() -> None:
    trainer = fit(ExportState())
    assert Journal.of(trainer).notes == ["ExportState wrote nothing: this fit saved no checkpoint"]
    assert list(Path.cwd().iterdir()) == []


def test_only_the_fit_is_listened_to() -> None:
    trainer = fit(ExportState(), every_epoch())
    trainer.save_checkpoint("by_hand.ckpt")
    assert not Path("by_hand.pth").exists()
    assert type(trainer.strategy.checkpoint_io).__name__ == "TorchCheckpointIO"


def test_a_plugin_of_the_users_own_goes_on_to_work() -> None:
    fit(ExportState(), ExportState(format="safetensors"), every_epoch(), plugins=[AsyncCheckpointIO()])
    assert len(names()) == 9


class Scheduled(Mlp):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=10)]


def test_a_plain_loop_goes_on_from_the_four_keys() -> None:
    unbroken = fit(ExportState(contents="training", prefix_strip="net"), every_epoch(), model=Scheduled())
    state = torch.load("kept/epoch=1.pth", weights_only=True)
    assert list(state) == ["model", "optimizer", "scheduler", "iteration"]
    assert state["iteration"] == 16
    net = Mlp(seed=4).net
    net.load_state_dict(state["model"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=10)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    for inputs, labels in torch.utils.data.DataLoader(blobs(128), batch_size=16):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    scheduler.step()
    assert equal(dict(net.state_dict()), dict(unbroken.lightning_module.net.state_dict()))
    assert optimizer.param_groups[0]["lr"] == unbroken.optimizers[0].param_groups[0]["lr"]


def test_several_optimizers_are_a_list_and_no_scheduler_is_none() -> None:
    from tests.helpers import ManualGAN

    fit(ExportState("gan.pth", contents="training", when="end"), model=ManualGAN(), max_epochs=1)
    state = read("gan.pth")
    assert [sorted(one) for one in state["optimizer"]] == [["param_groups", "state"]] * 2
    assert state["scheduler"] is None


class Tied(Mlp):
    def build(self) -> nn.Module:
        net = super().build()
        net[2].weight, net[2].bias = net[0].weight, net[0].bias
        return net


class Square(Mlp):
    """Two layers of one matrix."""

    def build(self) -> nn.Module:
        first, second = nn.Linear(8, 8), nn.Linear(8, 8)
        second.weight = first.weight
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_tied_weights(ending: str) -> None:
    trainer = fit(ExportState(format=ending), every_epoch(), model=Square())
    other = Square(seed=5)
    load_state(f"kept/epoch=2.{ending}", other)
    assert equal(dict(other.state_dict()), dict(trainer.lightning_module.state_dict()))


class Compiled(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


def test_the_prefix_of_a_compiled_net_is_taken_off() -> None:
    fit(ExportState(prefix_strip="net."), every_epoch(), model=Compiled())
    Mlp().net.load_state_dict(read("kept/epoch=2.pth"), strict=True)


class Breaks(Mlp):
    """A weight becomes NaN after an epoch, and is whole again after another."""

    def __init__(self, at: int, until: int = 99) -> None:
        super().__init__()
        self.at, self.until = at, until

    def on_train_epoch_end(self) -> None:
        weight = self.net[2].weight
        with torch.no_grad():
            if self.current_epoch == self.at:
                weight[0, 0] = float("nan")
            elif self.current_epoch > self.at:
                for parameter in self.parameters():
                    parameter.fill_(float("nan") if self.current_epoch < self.until else 0.5)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_that_are_not_finite_are_refused_and_the_last_good_ones_stay(ending: str) -> None:
    callback = ExportState(format=ending)
    with pytest.warns(TuningWarning, match="LT903"):
        trainer = fit(callback, every_epoch(save_top_k=1), model=Breaks(1))
    assert names() == [f"epoch=0.{ending}", "epoch=2.ckpt"]
    assert bool(read(f"kept/epoch=0.{ending}")["net.2.weight"].isfinite().all())
    (finding,) = (finding for finding in Journal.of(trainer).findings if finding.where == "net.2.weight")
    assert finding.code == "LT903"
    assert f"epoch=1.{ending} was not written, epoch=0.{ending} stays" in finding.message
    assert "ckpt_path" not in str(finding.remedy)
    assert [Path(file).name for file in callback.files] == [f"epoch=0.{ending}"]


def test_a_better_one_replaces_the_one_that_stayed() -> None:
    with pytest.warns(TuningWarning, match="LT903"):
        fit(ExportState(), every_epoch(save_top_k=1), model=Breaks(1, until=2))
    assert names() == ["epoch=2.ckpt", "epoch=2.pth"]


def test_a_moment_that_is_nan_makes_a_training_state_bad() -> None:
    class BadMoment(Mlp):
        def on_train_epoch_end(self) -> None:
            next(iter(self.trainer.optimizers[0].state.values()))["momentum_buffer"][0] = float("nan")

    with pytest.warns(TuningWarning, match="LT903"):
        trainer = fit(ExportState(contents="training"), every_epoch(), model=BadMoment(), max_epochs=1)
    assert names() == ["epoch=0.ckpt"]
    assert Journal.of(trainer).findings[0].where == "optimizer 0, parameter 0 (momentum_buffer)"
    fit(ExportState(), every_epoch(filename="weights"), model=BadMoment(), max_epochs=1)
    assert "weights.pth" in names()


def test_where_a_guard_refuses_the_checkpoint_there_is_no_export() -> None:
    with pytest.raises(TuningError, match="LT903"):
        fit(ExportState(), NanLossGuard(), every_epoch(save_top_k=1), model=Breaks(1))
    assert names() == ["epoch=0.ckpt", "epoch=0.pth"]


def test_averaged_weights_are_exported_where_the_checkpoint_has_them() -> None:
    average = WeightAveraging(avg_fn=lambda old, new, count: 0.5 * old + 0.5 * new)
    fit(average, ExportState(), every_epoch())
    saved = torch.load("kept/epoch=1.ckpt", weights_only=True)
    assert equal(read("kept/epoch=1.pth"), dict(saved["state_dict"]))
    assert not equal(dict(saved["state_dict"]), read("kept/epoch=0.pth"))


class Odd(Scheduled):
    """A scheduler that keeps what no plain file can hold."""

    def configure_optimizers(self) -> Any:
        (optimizer,), (scheduler,) = super().configure_optimizers()
        scheduler.owner = Path("a")
        return [optimizer], [scheduler]


@pytest.mark.parametrize("failure", ["a full disk", "not plain"])
def test_what_goes_wrong_in_writing_is_told_and_the_run_goes_on(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if failure == "a full disk":

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(export_state, "write_pth", full)
    callback = ExportState(contents="training")
    said = "No space left" if failure == "a full disk" else r"scheduler\.owner is a PosixPath"
    with pytest.warns(UserWarning, match=f"ExportState wrote no epoch=0.pth: .*{said}"):
        trainer = fit(callback, every_epoch(), model=Odd())
    assert trainer.global_step == 24
    assert names() == [f"epoch={epoch}.ckpt" for epoch in range(3)]
    (note,) = Journal.of(trainer).notes
    assert note.startswith("ExportState wrote no epoch=0.pth and 2 more: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"format": "zip"}, r"`format` must be 'pth' or 'safetensors', got 'zip'\."),
        ({"contents": None}, r"`contents` must be 'model' or 'training', got None\."),
        ({"when": "epoch"}, r"`when` must be 'checkpoint' or 'end', got 'epoch'\."),
        ({"contents": "training", "format": "safetensors"}, "`format` must be 'pth' with contents='training'"),
        ({"prefix_strip": ""}, r"`prefix_strip` must be the beginning of names or None, got ''\."),
        ({"prefix_strip": "."}, r"`prefix_strip` must be .*got '\.'\."),
        ({"path": ""}, "`path` must be that of a local file"),
        ({"path": "out/"}, "`path` must be that of a local file"),
        ({"path": "{checkpoint}.ckpt"}, "another ending than .ckpt"),
        ({"path": "s3://bucket/a.pth"}, "`path` must be that of a local file"),
        ({"path": "{epoch}.pth"}, r"no fields but \{checkpoint\} and \{name\}, got '\{epoch\}\.pth'"),
        ({"path": "{name.pth"}, "no braces but those of its fields"),
        ({"path": "{name}.pth", "when": "end"}, "no fields with when='end'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExportState(**arguments)


def test_a_prefix_that_nothing_has_is_refused_at_the_start() -> None:
    with pytest.raises(MisconfigurationException, match=r"prefix_strip='nett\.'\): no parameter of Mlp .*'net"):
        fit(ExportState(prefix_strip="nett."), every_epoch())


def test_a_checkpoint_of_weights_alone_is_no_training_state() -> None:
    with pytest.raises(MisconfigurationException, match="save_weights_only=True"):
        fit(ExportState(contents="training"), every_epoch(save_weights_only=True))


def test_the_checkpoints_own_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelCheckpoint, "FILE_EXTENSION", ".pth")
    with pytest.raises(MisconfigurationException, match="Give `path=` another one"):
        fit(ExportState(), every_epoch())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FSDPStrategy(state_dict_type="sharded"), "state_dict_type='full'"),
        (ModelParallelStrategy, "save_distributed_checkpoint=False"),
        (lambda: DeepSpeedStrategy.__new__(DeepSpeedStrategy), "zero_to_fp32"),
    ],
)
def test_who_saves_shards_is_refused(make: Callable[[], Any], said: str) -> None:
    trainer = quiet_trainer()
    trainer.strategy.__class__ = type(make())
    vars(trainer.strategy).update(vars(make()))
    with pytest.raises(MisconfigurationException, match=said):
        refuse_shards(trainer)


def test_whole_weights_of_a_sharding_strategy_are_taken() -> None:
    trainer = quiet_trainer()
    for strategy in (FSDPStrategy(), ModelParallelStrategy(save_distributed_checkpoint=False)):
        trainer.strategy.__class__ = type(strategy)
        vars(trainer.strategy).update(vars(strategy))
        refuse_shards(trainer)


@pytest.mark.parametrize("mode", ["accumulation", "bf16", "manual"])
def test_other_ways_to_train(mode: str) -> None:
    class Manual(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            optimizer.step()
            return loss

    settings = {"accumulation": {"accumulate_grad_batches": 2}, "bf16": {"precision": "bf16-mixed"}}.get(mode, {})
    trainer = fit(
        ExportState(contents="training"), every_epoch(), model=Manual() if mode == "manual" else None, **settings
    )
    state = read("kept/epoch=2.pth")
    assert equal(state["model"], dict(trainer.lightning_module.state_dict()))
    assert state["iteration"] == trainer.global_step


def ranks(rank: int) -> dict[str, Any]:
    callback = ExportState(contents="training", prefix_strip="net")
    trainer = fit(callback, every_epoch(save_top_k=1), strategy=gloo(), devices=2)
    net = Mlp(seed=8).net
    load_state("kept/epoch=2.pth", net)
    return {
        "files": callback.files,
        "folder": names(),
        "same": equal(dict(net.state_dict()), dict(trainer.lightning_module.net.state_dict())),
        "notes": [note for note in Journal.of(trainer).notes if "ExportState" in note],
    }


def test_on_two_ranks_the_first_writes() -> None:
    first, second = on_two_ranks(ranks)
    assert first["folder"] == second["folder"] == ["epoch=2.ckpt", "epoch=2.pth"]
    assert first["same"]
    assert second["same"]
    assert len(first["files"]) == len(first["notes"]) == 1
    assert second["files"] == second["notes"] == []
