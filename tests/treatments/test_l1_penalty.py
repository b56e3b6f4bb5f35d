"""The subgradient against the same penalty in the loss; the proximal step against one written out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_tuning import AdaptiveClipGuard, Journal, L1Penalty, NanLossGuard, TuningSuite
from tests.helpers import BNConvNet, LSTMNet, Mlp, TransformerNet
from tests.treatments.regularized import (
    WAYS,
    ByHand,
    Logged,
    Overflows,
    OverflowsFused,
    WithAdam,
    WithFusedAdam,
    assert_alike,
    assert_nothing_left_on,
    fit,
    scaled,
)

L1, L2 = 0.01, 0.02


class ByTheLoss(Mlp):
    """The penalty where people put it."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        weights = [p for name, p in self.named_parameters() if not name.endswith("bias")]
        return loss + sum(L1 * w.abs().sum() + L2 / 2 * w.square().sum() for w in weights)


class ByTheLossWithAdam(ByTheLoss, WithAdam):
    pass


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.2}])
@pytest.mark.parametrize("kinds", [(Mlp, ByTheLoss), (WithAdam, ByTheLossWithAdam)], ids=["SGD", "Adam"])
def test_the_subgradient_is_that_of_the_penalty_in_the_loss(kinds: Any, settings: dict[str, Any]) -> None:
    mine, theirs = (kind(batches=20) for kind in kinds)
    trainer = fit(mine, L1Penalty(L1, l2=L2), **settings)
    fit(theirs, **settings)
    assert_alike(mine, theirs, rtol=1e-3, atol=1e-4)
    assert_nothing_left_on(trainer)


@pytest.mark.parametrize("is_first", [True, False])
def test_the_clip_guard_clips_it_with_the_gradient_if_it_stands_behind(is_first: bool) -> None:
    penalty, guard = L1Penalty(L1, l2=L2), AdaptiveClipGuard("norm", threshold=0.2)
    mine, theirs = Mlp(batches=20), ByTheLoss(batches=20)
    fit(mine, TuningSuite(), *([penalty, guard] if is_first else [guard, penalty]))
    fit(theirs, gradient_clip_val=0.2)
    if is_first:
        assert_alike(mine, theirs, rtol=1e-3, atol=1e-4)
    else:
        with pytest.raises(AssertionError):
            assert_alike(mine, theirs, rtol=1e-3, atol=1e-4)


class Ista(pl.Callback):
    """Soft thresholding after each update, written out."""

    def step(self, pl_module: pl.LightningModule, optimizer: Any) -> None:
        names = {id(p): name for name, p in pl_module.named_parameters()}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and not names[id(p)].endswith("bias"):
                    t = group["lr"] * L1
                    with torch.no_grad():
                        p.copy_(p.sign() * torch.relu(p.abs() - t) / (1 + group["lr"] * L2))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            step = optimizer.step

            def stepped(*args: Any, step: Any = step, optimizer: Any = optimizer, **kwargs: Any) -> Any:
                result = step(*args, **kwargs)
                self.step(pl_module, optimizer)
                return result

            optimizer.step = stepped


@pytest.mark.parametrize("way", WAYS)
def test_the_proximal_step_is_ista(way: str) -> None:
    kind, settings = WAYS[way]
    mine, theirs, bare = kind(batches=20), kind(batches=20), kind(batches=20)
    trainer = fit(mine, L1Penalty(L1, l2=L2, proximal=True), **settings)
    fit(theirs, Ista(), **settings)
    fit(bare, **settings)
    assert_alike(mine, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_alike(mine, bare, rtol=1e-5, atol=1e-6)
    assert_nothing_left_on(trainer)


def test_the_proximal_step_gives_exact_zeros_and_says_how_many() -> None:
    model = Mlp(batches=100)
    trainer = fit(model, L1Penalty(0.05, proximal=True))
    weights = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if n.endswith("weight")])
    share = float((weights == 0).float().mean())
    assert share > 0.3
    (note,) = Journal.of(trainer).notes
    assert note.startswith(f"L1Penalty(0.05): of {len(weights)} weights {share:.1%} end at zero, ")
    tremble = Mlp(batches=100)
    fit(tremble, L1Penalty(0.05))
    weights = torch.cat([p.detach().flatten() for n, p in tremble.named_parameters() if n.endswith("weight")])
    assert float((weights == 0).float().mean()) < 0.01


@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize("kind", [Overflows, OverflowsFused], ids=["unfused", "fused"])
def test_an_update_that_the_scaler_leaves_out_is_left_out(kind: Any, proximal: bool) -> None:
    fit(kind(), L1Penalty(L1, l2=L2, proximal=proximal), **scaled())  # the module asserts it in each batch


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")  # LT411: so large a penalty is shown the better
def test_gradients_that_are_still_scaled_get_a_scaled_penalty() -> None:
    fused, plain = WithFusedAdam(batches=20), WithAdam(batches=20)
    for model in (fused, plain):
        fit(model, L1Penalty(0.1), **scaled())
    assert_alike(fused, plain, rtol=2e-2, atol=2e-2)


class Broken(Mlp):
    """Two batches have a gradient that is no number."""

    def on_after_backward(self) -> None:
        if self.trainer.global_step in (2, 5):
            self.net[0].weight.grad[0, 0] = math.nan


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("proximal", [False, True])
def test_an_update_that_a_guard_drops_changes_nothing(proximal: bool, is_first: bool) -> None:
    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.before = [p.detach().clone() for p in pl_module.parameters()]

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            same = [torch.equal(p, before) for p, before in zip(pl_module.parameters(), self.before, strict=True)]
            assert all(same) if batch_idx in (2, 5) else not any(same), batch_idx

    penalty, guard = L1Penalty(L1, proximal=proximal), NanLossGuard("skip", replay=False)
    fit(Broken(), *([penalty, guard] if is_first else [guard, penalty]), Look())


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")  # LT411: so large a penalty is shown the better
def test_the_loss_that_is_logged_is_the_datas_own() -> None:
    class Remembers(Mlp):
        losses: list[float]

        def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
            self.losses.append(float(outputs["loss"]))

    mine, bare = Remembers(), Remembers()
    mine.losses, bare.losses = [], []
    fit(mine, L1Penalty(0.5))
    fit(bare)
    assert mine.losses[0] == bare.losses[0]
    assert mine.losses != bare.losses


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}])
def test_the_penalty_is_logged_once_per_update(settings: dict[str, Any]) -> None:
    class Value(pl.Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            weights = [p for name, p in pl_module.named_parameters() if not name.endswith("bias")]
            self.values.append(float(sum(L1 * w.abs().sum() + L2 / 2 * w.square().sum() for w in weights).detach()))

    value, logger = Value(), Logged()
    fit(Mlp(), value, L1Penalty(L1, l2=L2), logger=logger, **settings)
    assert list(logger.numbers["tuning/l1_penalty"].values()) == pytest.approx(value.values, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "picked"),
    [
        (Mlp, {}, ["net.0.weight", "net.2.weight", "net.4.weight"]),
        (Mlp, {"include": "net.2"}, ["net.2.weight"]),
        (Mlp, {"include": ["net.0", "net.4"], "exclude": "*weight"}, ["net.0.bias", "net.4.bias"]),
        (Mlp, {"include": "net.0", "exclude": []}, ["net.0.weight", "net.0.bias"]),
        (BNConvNet, {}, ["net.0.weight", "net.3.weight", "net.8.weight"]),
        (BNConvNet, {"exclude": ["Linear", "BatchNorm2d"]}, ["net.0.weight", "net.3.weight"]),
        (LSTMNet, {}, ["net.lstm.weight_ih_l0", "net.lstm.weight_hh_l0", "net.head.weight"]),
        (
            TransformerNet,
            {"include": "*self_attn*"},
            ["net.encoder.self_attn.in_proj_weight", "net.encoder.self_attn.out_proj.weight"],
        ),
    ],
)
def test_patterns(kind: Any, arguments: dict[str, Any], picked: list[str]) -> None:
    penalty = L1Penalty(0.5, **arguments)

    class Look(pl.Callback):
        names: list[str] = []  # noqa: RUF012

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.names = list(penalty.picked)

    look = Look()
    fit(kind(batches=1), penalty, look)
    assert look.names == picked
    assert penalty.picked == {}


class Frozen(Mlp):
    def configure_model(self) -> None:
        self.requires_grad_(False)


class Embeds(Mlp):
    """Rows of a table have sparse gradients."""

    def build(self) -> nn.Module:
        return nn.ModuleDict({"rows": nn.Embedding(8, 3, sparse=True), "rest": super().build()})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["rest"](x) + self.net["rows"](torch.arange(len(x)) % 8)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithLbfgs(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (Mlp, {"include": "head*"}, r"`include` 'head\*' matches no parameter"),
        (Mlp, {"exclude": ["*bias", "norm"]}, "`exclude` 'norm' matches no parameter"),
        (Mlp, {"exclude": "*"}, "leave no trainable parameter"),
        (Embeds, {}, "the gradient of net.rows.weight is sparse"),
        (WithLbfgs, {}, "LBFGS"),
    ],
)
def test_set_ups_that_are_refused(kind: Any, arguments: dict[str, Any], said: str) -> None:
    model = kind()
    with pytest.raises(MisconfigurationException, match=said):
        fit(model, L1Penalty(**arguments))


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")  # LT411: so large a penalty is shown the better
def test_sparse_gradients_are_fine_with_the_proximal_step() -> None:
    trainer = fit(Embeds(), L1Penalty(0.1, proximal=True))
    assert trainer.global_step == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"l1": -1e-4}, "`l1` must be a number of at least 0, got -0.0001."),
        ({"l1": math.nan}, "`l1` must be a number of at least 0, got nan."),
        ({"l1": True}, "`l1` must be a number of at least 0, got True."),
        ({"l2": math.inf}, "`l2` must be a number of at least 0, got inf."),
        ({"l1": 0.0}, "`l1` and `l2` must not both be 0, got 0.0 and 0.0."),
        ({"proximal": "yes"}, "`proximal` must be True or False, got 'yes'."),
        ({"include": []}, r"`include` must hold at least one glob, got \[\]."),
        ({"exclude": [1]}, "`exclude` must hold globs on dotted names, got 1."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        L1Penalty(**arguments)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize("kind", [Mlp, ByHand])
def test_a_resumed_run_is_the_unbroken_one(kind: Any, proximal: bool, tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    unbroken, resumed, one, other = kind(), kind(), L1Penalty(L1, proximal=proximal), L1Penalty(L1, proximal=proximal)
    fit(unbroken, one, saves, max_epochs=3, enable_checkpointing=True)
    fit(resumed, other, max_epochs=3, path=tmp_path / "epoch=0.ckpt")
    assert_alike(unbroken, resumed)
    assert one.tuning_state() == other.tuning_state()


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")
def test_a_penalty_that_dominates_is_said() -> None:
    sick = Journal.of(fit(Mlp(lr=1e-3, batches=300), L1Penalty(0.5)))
    assert [finding.code for finding in sick.findings if finding.code == "LT411"] == ["LT411"]
    healthy = Journal.of(fit(Mlp(batches=300), L1Penalty(1e-4)))
    assert [finding.code for finding in healthy.findings] == []
