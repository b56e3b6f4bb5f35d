from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_tuning import ActivationMonitor, Finding, Journal, Severity
from tests.helpers import CLASSES, BNConvNet, ManualGAN, Mlp, TinyModule, TransformerNet, blobs, quiet_trainer
from tests.ranks import gloo, on_two_ranks

WINDOW = 12


def fit(model: Any, monitor: ActivationMonitor | None = None, **settings: Any) -> list[Finding]:
    monitor = monitor or ActivationMonitor(2)
    callbacks = [monitor, *settings.pop("callbacks", [])]
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=callbacks, **settings)
    trainer.fit(model)
    assert _get_current_function_mode() is None
    return Journal.of(trainer).findings


class Recorded(TinyModule):
    """Keeps the activations of each training batch, by the layer that made them, for the naive oracle."""

    way = "functional"

    def build(self) -> nn.Module:
        net = nn.ModuleDict({"a": nn.Linear(8, 12), "b": nn.Linear(12, 10), "head": nn.Linear(10, CLASSES)})
        with torch.no_grad():
            net["a"].bias[:9] = -9.0  # silent nearly always
            net["b"].bias[0] = -9.0
        return net

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kept: list[dict[str, Tensor]] = []
        self.moved: list[dict[str, Tensor]] = []
        self.act = nn.ReLU(inplace=True)

    def relu(self, x: Tensor) -> Tensor:
        if self.way == "functional":
            return F.relu(x)
        return self.act(x) if self.way == "in place" else x.clamp(min=0)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.net["a"](x))
        b = self.relu(self.net["b"](a))
        if self.training:
            self.kept[-1].update(a=a.detach().clone(), b=b.detach().clone())
        return self.net["head"](b)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.kept.append({})
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_: Any) -> None:
        named = self.net.named_parameters()
        self.moved.append({name: p.grad.clone() for name, p in named if p.grad is not None})


class RecordedMaps(Recorded):
    """Likewise over images, with a batch norm, and over sequences behind it."""

    shape = (1, 6, 6)

    def build(self) -> nn.Module:
        net = {"a": nn.Conv2d(1, 12, 3), "n": nn.BatchNorm2d(12), "b": nn.Linear(12, 10), "head": nn.Linear(10, 3)}
        nn.init.constant_(net["n"].bias[:7], -9.0)  # type: ignore[index]
        return nn.ModuleDict(net)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.net["n"](self.net["a"](x)))
        b = self.relu(self.net["b"](a.flatten(2).transpose(1, 2)))  # [B, T, C]
        if self.training:
            self.kept[-1].update(a=a.detach().clone(), b=b.detach().transpose(1, 2).clone())
        return self.net["head"](b.mean(1))


def naive_dead(model: Recorded, looks: list[int], name: str, parameter: str) -> int:
    """Unit after unit: silent in all looks, and no gradient of its own in any."""
    dead = 0
    for unit in range(model.kept[0][name].shape[1]):
        silent = all(bool((model.kept[look][name][:, unit] <= 0).all()) for look in looks)
        dead += silent and not any(bool(model.moved[look][parameter][unit].any()) for look in looks)
    return dead


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("way", ["functional", "in place", "clamp"])
@pytest.mark.parametrize(("kind", "parameter"), [(Recorded, "a.bias"), (RecordedMaps, "n.bias")])
def test_counts_are_those_of_the_naive_oracle(
    kind: type[Recorded], parameter: str, way: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorded, "way", way)
    monitor, model = ActivationMonitor(2), kind(batches=2 * WINDOW - 1)
    fit(model, monitor, precision=precision)
    looks = [2 * i + 1 for i in range(WINDOW - 1)]  # batches 2, 4, ... counted from 1; the verdict is one look away
    dead, seen, shown, *_ = monitor._watch.counts.compute().T.tolist()
    expected = [naive_dead(model, looks, "a", parameter), naive_dead(model, looks, "b", "b.bias")]
    assert dead == expected
    assert 7 <= dead[0] < 12
    assert seen == [WINDOW - 1] * 2
    assert shown[0] == sum(model.kept[look]["a"][:, 0].numel() for look in looks)


class Sick(Mlp):
    """All of the first layer is switched off."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        nn.init.constant_(self.net[0].bias, -20.0)


class SickByHand(Sick):
    """Likewise, with manual optimization; gradients are cleared at the start of a step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Sick, {}),
        (Sick, {"accumulate_grad_batches": 3}),
        (Sick, {"precision": "bf16-mixed"}),
        (Sick, {"gradient_clip_val": 0.1}),
        (SickByHand, {}),
    ],
    ids=["plain", "accumulation", "bf16", "clipping", "manual"],
)
def test_a_dead_layer_is_found(kind: type[Sick], settings: dict[str, Any]) -> None:
    (finding,) = fit(kind(batches=30), **settings)
    assert (finding.code, finding.where, finding.count) == ("LT608", "net.0", WINDOW)
    assert finding.severity is Severity.INFO  # nobody knows yet how the run goes
    assert (finding.evidence["dead"], finding.evidence["units"]) == (16, 16)


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")
def test_it_becomes_a_warning_when_the_run_stays_flat_and_only_then() -> None:
    (finding,) = fit(Sick(batches=220), ActivationMonitor())
    assert finding.severity is Severity.WARNING
    assert fit(Mlp(batches=220), ActivationMonitor()) == []


class Penalized(Sick):
    """The units are silent, but their weights still get a gradient."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (
            super().training_step(batch, batch_idx)
            + 0.01 * (self.net[0].bias + 20).square().sum()
            - 1e-3 * (self.net[0].bias.sum())
        )


def test_units_with_a_gradient_are_not_dead() -> None:
    assert fit(Penalized(batches=30)) == []


class Branches(Mlp):
    """A branch that few batches take, and that has nothing to say."""

    def build(self) -> nn.Module:
        net = nn.ModuleDict({"trunk": super().build(), "rare": nn.Sequential(nn.Linear(8, 16), nn.ReLU())})
        nn.init.constant_(net["rare"][0].bias, -20.0)
        net["out"] = nn.Linear(16, CLASSES)
        return net

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net["trunk"](x)
        if self.training and self.global_step % 4 in (0, 1):
            logits = logits + self.net["out"](self.net["rare"](x))
        return logits


def test_a_branch_that_runs_now_and_then_is_not_judged() -> None:
    monitor = ActivationMonitor(2)
    assert fit(Branches(batches=30), monitor) == []
    assert "net.rare.0" in [layer.where for layer in monitor._layers]


class Shared(Mlp):
    """One ReLU for two layers, one of them dead; sometimes it is passed once more, for nothing that is known."""

    def build(self) -> nn.Module:
        act = nn.ReLU()
        net = nn.Sequential(nn.Linear(8, 16), act, nn.Linear(16, 16), act, nn.Linear(16, CLASSES))
        nn.init.constant_(net[2].bias, -20.0)
        return net


def test_a_shared_activation_is_told_apart_by_its_turn() -> None:
    (finding,) = fit(Shared(batches=30))
    assert finding.where == "net.2"


class Checkpointed(Sick):
    def forward(self, x: Tensor) -> Tensor:
        return self.net[2:](checkpoint(self.net[:2], x, use_reentrant=False)) if self.training else self.net(x)


def test_a_recomputation_does_not_count_twice() -> None:
    monitor = ActivationMonitor(2)
    fit(Checkpointed(batches=9), monitor)
    assert monitor._watch.counts.compute()[0, 2] == 4 * 16  # looks at batches of 16


class Compiled(Sick):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = torch.compile(self.net, backend="eager")


def test_compiled_modules_are_not_looked_at_which_is_said_once() -> None:
    monitor = ActivationMonitor(2)
    trainer = quiet_trainer(callbacks=[monitor])
    trainer.fit(Compiled(batches=30))
    notes = [note for note in Journal.of(trainer).notes if "blind here" in note]
    assert len(notes) == 1
    assert "compiled" in notes[0]
    assert monitor._watch is not None
    assert monitor._watch.counts.compute()[:, 1].sum() == 0


class Saturated(Mlp):
    def build(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, CLASSES))
        with torch.no_grad():
            net[2].weight.mul_(60)
        return net


def test_a_saturated_layer_is_found() -> None:
    (finding,) = fit(Saturated(batches=30))
    assert (finding.code, finding.where) == ("LT609", "net.2")
    assert finding.evidence["share"] > 0.5


class Sharp(TransformerNet):
    """Its keys are so long that each query sees one of them."""

    def build(self) -> nn.Module:
        net = super().build()
        with torch.no_grad():
            net["encoder"].self_attn.in_proj_weight[:16].mul_(100)
        return net


def test_collapsed_attention_is_found_without_visible_scores() -> None:
    (finding,) = fit(Sharp(batches=30, lr=1e-4))
    assert (finding.code, finding.where) == ("LT611", "net.encoder.self_attn")
    assert finding.count == 3 + WINDOW  # before training, and after it began
    assert fit(TransformerNet(batches=30)) == []


class Logger(pl.loggers.Logger):
    name = version = "test"

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged += [(step, metrics)] if any(name.startswith("tuning/") for name in metrics) else []


@pytest.mark.parametrize(
    ("model", "name", "low", "high"),
    [
        (Sick, "tuning/dead_units", 1.0, 1.0),
        (BNConvNet, "tuning/dead_units", 0.0, 0.0),
        (Saturated, "tuning/saturated_units", 0.5, 1.0),
        (TransformerNet, "tuning/attention_entropy", 0.5, 1.0),
    ],
)
def test_numbers_are_logged_at_each_verdict(model: type[TinyModule], name: str, low: float, high: float) -> None:
    logger = Logger()
    fit(model(batches=50), logger=logger)
    logged = [(step, metrics[name]) for step, metrics in logger.logged if name in metrics]
    assert len(logged) == 2
    assert all(low <= value <= high for _, value in logged)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_resumed_run_comes_to_the_same_verdict(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = fit(Sick(batches=10), max_epochs=3, callbacks=[saves], enable_checkpointing=True)
    trainer = quiet_trainer(callbacks=[ActivationMonitor(2)], max_epochs=3)
    trainer.fit(Sick(batches=10), ckpt_path=tmp_path / "epoch=0.ckpt")
    resumed = Journal.of(trainer).findings
    assert [f.to_dict() for f in resumed] == [f.to_dict() for f in whole]
    assert [f.count for f in resumed] == [WINDOW]
    state = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["lightning_tuning"]["ActivationMonitor"]
    assert state["counts"]["looks"].tolist() == [5.0, 5.0]


class Half(Mlp):
    """Of the first layer's sixteen units twelve speak only on the rank that has positive samples."""

    def __init__(self, sides: bool, **kwargs: Any) -> None:
        self.sides = [sides]
        super().__init__(lr=1e-4, **kwargs)

    def build(self) -> nn.Module:
        net = super().build()
        with torch.no_grad():
            net[0].weight[:12] = 0.1
            net[0].bias[:12] = 0.0 if self.sides[0] else -50.0
        return net

    def train_dataloader(self) -> DataLoader[Any]:
        data = blobs(self.batches * self.batch_size)
        sign = 1 if self.trainer.global_rank else -1
        return DataLoader([(sign * x.abs(), y) for x, y in data], batch_size=self.batch_size)

    def val_dataloader(self) -> list[Any]:
        return []


def on_rank(rank: int) -> list[list[tuple[str, str, int]]]:
    found = []
    for sides in (True, False):
        torch.manual_seed(0)
        trainer = quiet_trainer(
            callbacks=[ActivationMonitor(2)], strategy=gloo(), devices=2, use_distributed_sampler=False
        )
        trainer.fit(Half(sides, batches=26))
        found.append([(f.code, f.where, int(f.evidence["dead"])) for f in Journal.of(trainer).findings])
    return found


def test_two_ranks_agree_on_what_both_have_seen() -> None:
    one, other = on_two_ranks(on_rank)
    assert one == other
    speaking, silent = one
    assert speaking == [], "a unit that speaks on one rank lives"
    assert silent == [("LT608", "net.0", 12)]


class OwnWays(Mlp):
    """Each rank's batches take another branch, so that their traces differ; a part is common."""

    def build(self) -> nn.Module:
        net = {"common": nn.Linear(8, 16), "head": nn.Linear(16, CLASSES)}
        net.update({f"own{rank}": nn.Linear(16, 16) for rank in range(2)})
        nn.init.constant_(net["common"].bias, -50.0)
        return nn.ModuleDict(net)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.net["common"](x))
        x = F.relu(self.net[f"own{self.trainer.global_rank}"](x))
        return self.net["head"](x)


def on_own_ways(rank: int) -> tuple[list[str], list[tuple[str, str]]]:
    torch.manual_seed(0)
    monitor, strategy = ActivationMonitor(2), gloo()
    strategy._ddp_kwargs["find_unused_parameters"] = True
    trainer = quiet_trainer(callbacks=[monitor], strategy=strategy, devices=2, limit_val_batches=0)
    trainer.fit(OwnWays(batches=52))
    assert monitor._watch is not None
    found = [(f.code, f.where) for f in Journal.of(trainer).findings]
    return [layer.where for layer in monitor._watch.layers], found


def test_ranks_that_go_other_ways_watch_what_they_have_in_common() -> None:
    one, other = on_two_ranks(on_own_ways)
    assert one == other == (["net.common"], [("LT608", "net.common")])


class Fails(Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 5:
            raise RuntimeError("the user's own")
        return super().training_step(batch, batch_idx)


class Leaves(Mlp):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 5 else None


@pytest.mark.parametrize("kind", [Fails, Leaves])
def test_nothing_is_left_behind(kind: type[Mlp]) -> None:
    monitor = ActivationMonitor(2)
    trainer = quiet_trainer(callbacks=[monitor])
    if kind is Fails:
        with pytest.raises(RuntimeError, match="the user's own"):
            trainer.fit(kind())
    else:
        trainer.fit(kind())
    assert _get_current_function_mode() is None
    assert not monitor._watch._lookout.is_out


def test_a_gan_is_not_held_to_its_saturation() -> None:
    monitor = ActivationMonitor(2)
    assert fit(ManualGAN(batches=30), monitor) == []
    assert all(layer.kind != "squash" for layer in monitor._layers)


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "5", None])
def test_bad_arguments(every: Any) -> None:
    with pytest.raises(ValueError, match=rf"`every_n_steps` must be an integer of at least 1, got {every!r}"):
        ActivationMonitor(every)
