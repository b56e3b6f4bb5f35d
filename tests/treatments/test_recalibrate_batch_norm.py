from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_tuning import FreezeGuard, Journal, RecalibrateBatchNorm
from lightning_tuning.trace import RngState
from tests.helpers import CLASSES, ManualGAN, Mlp, TinyModule, quiet_trainer


class Net(TinyModule):
    """Dropout in front of batch norm, as module and functional, and a metric that counts."""

    shape = (1, 8, 8)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(lr=0.05, **kwargs)
        self.mean = MeanMetric()
        self.validated_with: list[Tensor] = []

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "conv": nn.Conv2d(1, 4, 3),
                "drop": nn.Dropout(0.5),
                "norm": nn.BatchNorm2d(4),
                "fc": nn.Linear(144, 8),
                "norm1": nn.BatchNorm1d(8),
                "head": nn.Linear(8, CLASSES),
            }
        )

    def features(self, x: Tensor, *, drops: bool) -> tuple[Tensor, Tensor]:
        """What the two batch norms are given."""
        first = self.net["conv"](x)
        first = self.net["drop"](first) if drops else first
        second = self.net["norm"](first).relu().flatten(1)
        second = F.dropout(second, 0.3, training=self.training and drops)
        return first, self.net["fc"](second)

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["norm1"](self.features(x, drops=True)[1]).relu())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.mean(loss)
        self.log("mean", self.mean, on_step=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.validated_with.append(self.net["norm"].running_mean.clone())


def fit(*callbacks: pl.Callback, model: pl.LightningModule | None = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = quiet_trainer(callbacks=[*callbacks], **{"num_sanity_val_steps": 0, **settings})
    trainer.fit(Net() if model is None else model, ckpt_path=ckpt_path)
    return trainer


def oracle(model: Net, batches: int) -> dict[str, Tensor]:
    """Mean and variance of what each norm is given over the last batches, in float64, by the weights as they are."""
    norms = {"norm": model.net["norm"], "norm1": model.net["norm1"]}
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    for norm in norms.values():
        norm.train()  # normalizes by the batch
    found = {}
    with torch.no_grad():
        given = [model.features(x, drops=False) for x, _ in [*model.train_dataloader()][-batches:]]
    for place, name in enumerate(norms):
        channels = [batch[place].double().transpose(0, 1).flatten(1) for batch in given]
        found[f"{name}.running_mean"] = torch.stack([batch.mean(1) for batch in channels]).mean(0)
        found[f"{name}.running_var"] = torch.stack([batch.var(1) for batch in channels]).mean(0)
    model.load_state_dict(kept)
    return found


@pytest.mark.parametrize("batches", [1, 3, 99])
@pytest.mark.parametrize("when", ["end", "validation"])
def test_at_the_end_statistics_are_the_means_over_the_last_batches(when: Any, batches: int) -> None:
    trainer = fit(RecalibrateBatchNorm(batches, when=when), limit_val_batches=0)
    model = trainer.lightning_module
    assert isinstance(model, Net)
    expected = oracle(model, min(batches, 8))
    for name, value in expected.items():
        torch.testing.assert_close(model.net.get_buffer(name).double(), value, atol=1e-5, rtol=1e-4)
    assert "RecalibrateBatchNorm took the statistics of 2 batch norm(s) anew, once" in Journal.of(trainer).notes


def test_a_fresh_pass_over_the_loader_gives_the_same_where_the_loader_does() -> None:
    recent = fit(RecalibrateBatchNorm(8, when="end")).lightning_module
    loaded = fit(RecalibrateBatchNorm(8, when="end", data="loader")).lightning_module
    for one, other in zip(recent.buffers(), loaded.buffers(), strict=True):
        torch.testing.assert_close(one, other)


class Watch(pl.Callback):
    """Random numbers and metrics around everything."""

    def __init__(self) -> None:
        self.rng: list[RngState] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rng.append(RngState.capture())

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("val")})


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_training_is_the_same_bit_for_bit(settings: dict[str, Any]) -> None:
    bare_watch, watch = Watch(), Watch()
    bare = fit(bare_watch, max_epochs=2, val_check_interval=4, **settings)
    treated = fit(RecalibrateBatchNorm(4), watch, max_epochs=2, val_check_interval=4, **settings)
    for one, other in zip(bare.lightning_module.parameters(), treated.lightning_module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert watch.rng == bare_watch.rng
    assert watch.metrics == bare_watch.metrics
    assert int(treated.lightning_module.net["norm"].num_batches_tracked) == 16
    assert not torch.equal(
        bare.lightning_module.net["norm"].running_mean, treated.lightning_module.net["norm"].running_mean
    )
    assert "took the statistics of 2 batch norm(s) anew, 4 times" in " ".join(Journal.of(treated).notes)


def test_every_validation_and_the_checkpoint_after_it_have_the_new_ones(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, monitor="val_loss")
    trainer = fit(RecalibrateBatchNorm(4), saves, max_epochs=2, enable_checkpointing=True)
    model = trainer.lightning_module
    assert isinstance(model, Net)
    for epoch in range(2):
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        assert torch.equal(saved["net.norm.running_mean"], model.validated_with[epoch])
    torch.testing.assert_close(model.validated_with[1].double(), oracle(model, 4)["norm.running_mean"])


def test_the_sanity_check_comes_before_any_batch() -> None:
    trainer = fit(RecalibrateBatchNorm(), num_sanity_val_steps=1)
    model = trainer.lightning_module
    assert isinstance(model, Net)
    assert not model.validated_with[0].any()
    assert model.validated_with[1].any()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resumed_from_an_epochs_end_it_is_the_unbroken_run(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)

    def model() -> Net:
        net = Net()
        net.net["drop"].p = 0.0  # no random numbers: Lightning keeps none
        net.features = lambda x, drops: Net.features(net, x, drops=False)  # type: ignore[method-assign]
        return net

    whole = fit(RecalibrateBatchNorm(4), saves, model=model(), max_epochs=3, enable_checkpointing=True)
    resumed = fit(
        RecalibrateBatchNorm(4),
        model=model(),
        max_epochs=3,
        ckpt_path=tmp_path / "epoch=0.ckpt",
    )
    states = whole.lightning_module.state_dict(), resumed.lightning_module.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_frozen_batch_norms_keep_theirs() -> None:
    model = Net()
    trainer = fit(FreezeGuard("net.norm1"), RecalibrateBatchNorm(), model=model)
    assert not model.net["norm1"].running_mean.any()
    assert model.net["norm"].running_mean.any()
    assert "of 1 batch norm(s) anew" in " ".join(Journal.of(trainer).notes)


class ManualWithNorm(ManualGAN):
    def build(self) -> nn.Module:
        parts = super().build()
        parts["discriminator"].insert(1, nn.BatchNorm1d(16))
        return parts


def test_manual_optimization() -> None:
    model = ManualWithNorm()
    trainer = fit(RecalibrateBatchNorm(2, when="end"), model=model)
    bare = ManualWithNorm()
    fit(model=bare)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), bare.parameters(), strict=True))
    assert not torch.equal(model.net["discriminator"][1].running_mean, bare.net["discriminator"][1].running_mean)
    assert trainer.global_step == 16


class RaisesAside(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.validating:
            raise RuntimeError("not in a validation")
        return super().training_step(batch, batch_idx)


def test_a_step_that_cannot_be_repeated_is_told_of_and_left() -> None:
    model, bare = RaisesAside(), RaisesAside()
    trainer = fit(RecalibrateBatchNorm(4), model=model, max_epochs=2)
    fit(model=bare, max_epochs=2)
    (note,) = [note for note in Journal.of(trainer).notes if "Recalibrate" in note]
    assert "left the statistics as they were: The repeated training_step raised RuntimeError" in note
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), bare.buffers(), strict=True))


def test_no_batch_norm_is_said_and_costs_nothing() -> None:
    callback = RecalibrateBatchNorm()
    trainer = fit(callback, model=Mlp())
    assert "found no batch norm that trains" in Journal.of(trainer).notes[0]


def test_batches_are_let_go_of_and_never_pickled() -> None:
    callback = RecalibrateBatchNorm()
    callback._held.append((torch.zeros(1), 0))
    assert not pickle.loads(pickle.dumps(callback))._held
    fit(callback)
    assert not callback._held


class Detector(nn.Module):
    """Returns a loss in training and predictions in evaluation, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        logits = self.head(self.body(x))
        if not self.training:
            return logits
        assert y is not None
        return F.cross_entropy(logits, y)


class Detects(TinyModule):
    shape = (1, 8, 8)

    def build(self) -> nn.Module:
        return Detector()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.net(*batch)
        assert loss.dim() == 0
        return loss


def test_containers_stay_in_training_mode_where_layers_do_not() -> None:
    model = Detects(lr=0.01)
    fit(RecalibrateBatchNorm(2, when="end"), model=model)
    given = [model.net.body[1](x.flatten(1)).detach() for x, _ in [*model.train_dataloader()][-2:]]
    torch.testing.assert_close(model.net.body[3].running_mean, torch.stack([x.mean(0) for x in given]).mean(0))
    torch.testing.assert_close(model.net.body[3].running_var, torch.stack([x.var(0) for x in given]).mean(0))


def test_an_evaluation_after_a_run_that_broke_uses_what_is_there() -> None:
    class Breaks(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 3:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    model, callback = Breaks(), RecalibrateBatchNorm()
    with pytest.raises(RuntimeError, match="mine"):
        fit(callback, model=model)
    before = {name: value.clone() for name, value in model.net.named_buffers()}
    trainer = quiet_trainer(callbacks=[callback])
    trainer.validate(model, verbose=False)
    assert Journal.of(trainer).notes == []
    assert all(torch.equal(value, before[name]) for name, value in model.net.named_buffers())


def test_cumulative_norms_go_on_from_the_count_of_the_estimate() -> None:
    model = Net()
    model.net["norm"].momentum = None
    fit(RecalibrateBatchNorm(3, when="end"), model=model)
    assert int(model.net["norm"].num_batches_tracked) == 3
    assert int(model.net["norm1"].num_batches_tracked) == 8
    assert model.net["norm"].momentum is None
    assert model.net["norm1"].momentum == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 0}, r"`batches` must be a whole number of at least 1, got 0\."),
        ({"batches": True}, r"`batches` must be a whole number of at least 1, got True\."),
        ({"when": "never"}, r"`when` must be one of \('validation', 'end'\), got 'never'\."),
        ({"data": "test"}, r"`data` must be one of \('recent', 'loader'\), got 'test'\."),
        ({"data": "loader"}, r"`data` must be 'recent' with when='validation': the loader is in use then"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecalibrateBatchNorm(**arguments)
