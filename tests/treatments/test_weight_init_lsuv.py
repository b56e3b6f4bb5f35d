"""``scheme="lsuv"``: every layer's output has unit variance on the first batch, and its weight is orthonormal."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.runtime import Desk
from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import BNConvNet, DropoutNet, LSTMNet, ManualGAN, Mlp, TinyModule, TransformerNet, quiet_trainer


class Variances(pl.Callback):
    """Forward hooks on the first real batch: the variance of each layer's output, when the step is done for real."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            for name, layer in pl_module.named_modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.register_forward_hook(lambda _, __, out, name=name: self._note(name, out))

    def _note(self, name: str, out: Tensor) -> None:
        self.of.setdefault(name, float(out.detach().float().var(correction=0)))


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    settings.setdefault("limit_train_batches", 1)
    trainer = quiet_trainer(callbacks=list(callbacks), limit_val_batches=0, **settings)
    trainer.fit(model)
    return trainer


class DeepConv(TinyModule):
    """No normalization, a stride, groups, and biases that were set by hand."""

    shape = (1, 8, 8)

    def build(self) -> nn.Module:
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, stride=2, groups=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(72, 3),
        )
        nn.init.constant_(net[0].bias, 0.5)
        with torch.no_grad():
            net[5].bias.copy_(torch.tensor([-0.3, 0.0, 0.4]))
        return net


@pytest.mark.parametrize("kind", [Mlp, BNConvNet, DropoutNet, DeepConv, TransformerNet])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_unit_variance_in_the_real_step(kind: type[TinyModule], precision: Any) -> None:
    callback, seen = WeightInitCallback("lsuv"), Variances()
    fit(kind(), callback, seen, precision=precision)
    assert seen.of
    off = {name: value for name, value in seen.of.items() if not abs(value - 1) < 0.11}
    assert off == {}
    for row in callback.report_.initialized:
        assert row.scheme == "lsuv"
        assert row.variance is not None
        assert abs(row.variance[1] - 1) < 0.1
    assert callback.report_.notes == []
    assert "output variance" in str(callback.report_)


def test_a_tighter_tolerance() -> None:
    callback, seen = WeightInitCallback("lsuv", lsuv_tol=1e-4), Variances()
    fit(DeepConv(), callback, seen)
    assert all(value == pytest.approx(1.0, abs=2e-4) for value in seen.of.values())


def test_weights_are_orthonormal_up_to_their_scale() -> None:
    model, callback = Mlp(lr=0.0), WeightInitCallback("lsuv")
    fit(model, callback)
    for row in callback.report_.initialized:
        weight = model.get_parameter(row.name).detach()
        rows = weight if len(weight) <= weight.shape[1] else weight.T
        assert torch.allclose(rows @ rows.T, row.gain**2 * torch.eye(len(rows)), atol=1e-5)
    plain = Mlp(lr=0.0)
    fit(plain, WeightInitCallback("orthogonal"))
    for row in callback.report_.initialized:  # the same draws
        assert torch.allclose(model.get_parameter(row.name), row.gain * plain.get_parameter(row.name), atol=1e-6)


def test_recurrent_layers_are_orthonormal_and_the_head_is_scaled() -> None:
    callback = WeightInitCallback("lsuv")
    fit(LSTMNet(lr=0.0), callback)
    schemes = {row.name: row.scheme for row in callback.report_.initialized}
    assert schemes == {
        "net.lstm.weight_ih_l0": "orthogonal",
        "net.lstm.weight_hh_l0": "orthogonal",
        "net.head.weight": "lsuv",
    }


def test_a_layer_that_is_used_twice_is_scaled_once() -> None:
    callback = WeightInitCallback("lsuv")
    fit(ManualGAN(), callback)
    assert {row.scheme for row in callback.report_.initialized} == {"lsuv"}
    assert len(callback.report_.initialized) == 4


def test_dead_layers_are_named_and_nothing_loops() -> None:
    class Dead(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return self.net[4](self.net[2](-self.net[0](x).relu() - 1).relu() * 0)

    callback = WeightInitCallback("lsuv")
    trainer = fit(Dead(lr=0.0), callback)
    (note,) = callback.report_.notes
    assert note.endswith("or was not seen: net.4.weight")
    assert note in Desk.of(trainer).journal.notes
    assert note in str(callback.report_)
    assert {row.name: row.scheme for row in callback.report_.initialized}["net.4.weight"] == "orthogonal"


def test_a_bias_that_is_too_far_apart_is_named() -> None:
    model = Mlp(lr=0.0)
    with torch.no_grad():
        model.net[0].bias.copy_(torch.linspace(-9, 9, 16))
    callback = WeightInitCallback("lsuv")
    fit(model, callback)
    assert any("biases keep the variance from 1 at net.0.weight" in note for note in callback.report_.notes)


def test_the_run_goes_on_as_if_nobody_had_looked() -> None:
    """Batch norm statistics, random numbers and gradients are those of a run that had the weights from the start."""
    callback = WeightInitCallback("lsuv")
    states = []
    for kind in (BNConvNet, DropoutNet):
        pl.seed_everything(3, verbose=False)
        model = kind()
        trainer = fit(model, callback, limit_train_batches=3)
        del trainer
        pl.seed_everything(3, verbose=False)
        twin = kind()
        start = kind(lr=0.0)
        fit(start, WeightInitCallback("lsuv"))
        with torch.no_grad():
            for name, value in start.named_parameters():
                twin.get_parameter(name).copy_(value)
        pl.seed_everything(3, verbose=False)
        fit(twin, limit_train_batches=3)
        states.append((model.state_dict(), twin.state_dict()))
    for first, second in states:
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("scheme", ["lsuv", "he"])
def test_compiled_and_checkpointed_parts(scheme: str) -> None:
    class Parts(TinyModule):
        def build(self) -> nn.Module:
            body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
            return nn.ModuleDict(
                {"a": torch.compile(body, backend="eager"), "b": nn.Linear(8, 8), "head": nn.Linear(8, 3)}
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.net["a"](x)
            x = x + torch.utils.checkpoint.checkpoint(lambda h: self.net["b"](h.relu()), x, use_reentrant=False)
            return self.net["head"](x)

    callback = WeightInitCallback(scheme, residual="zero", head_bias="prior")
    fit(Parts(), callback)
    schemes = {row.name: row.scheme for row in callback.report_.initialized}
    assert schemes == {
        "net.a._orig_mod.0.weight": scheme,
        "net.a._orig_mod.2.weight": "zero",
        "net.b.weight": "zero",
        "net.head.weight": scheme,
    }
    assert "net.head.bias is" in callback.report_.notes[-1]


def test_in_a_dict_with_others() -> None:
    callback = WeightInitCallback({"net.0": "lsuv", "net.2": "he", "*": "auto"})
    fit(Mlp(), callback)
    assert [row.scheme for row in callback.report_.initialized] == ["lsuv", "he", "lecun"]


def test_resumed_runs_keep_their_weights(tmp_path: Any) -> None:
    fit(Mlp(), limit_train_batches=8).save_checkpoint(tmp_path / "last.ckpt")
    weights = []
    for callbacks in ([], [WeightInitCallback("lsuv", residual="zero", head_bias="prior", overwrite=True)]):
        model = Mlp(seed=5)
        trainer = quiet_trainer(callbacks=callbacks, max_epochs=2)
        trainer.fit(model, ckpt_path=tmp_path / "last.ckpt")
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_accumulation_and_a_second_fit() -> None:
    model, callback = Mlp(), WeightInitCallback("lsuv")
    fit(model, callback, accumulate_grad_batches=2, limit_train_batches=4)
    assert {row.scheme for row in callback.report_.initialized} == {"lsuv"}
    again = WeightInitCallback("lsuv", overwrite=True)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    model.lr = 0.0
    fit(model, again)
    assert again.report_.initialized == []
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
