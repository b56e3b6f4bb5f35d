"""``init_weight``: children first, before anybody looks, and never over trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning.functional import initialize_layer_
from lightning_tuning.mixins import WeightInitMixin
from lightning_tuning.runtime import Desk
from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import DropoutNet, LSTMNet, Mlp, TinyModule, quiet_trainer


class Filled(WeightInitMixin, Mlp):
    """Writes down whom it was shown."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"lr": 0.0, **arguments})
        self.shown: list[nn.Module] = []

    def init_weight(self, layer: nn.Module) -> None:
        self.shown.append(layer)
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.5)
            nn.init.constant_(layer.bias, 0.125)


class Default(WeightInitMixin, Mlp):
    pass


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), limit_val_batches=0, **settings)
    trainer.fit(model)
    return trainer


def notes(trainer: pl.Trainer) -> list[str]:
    return [note for note in Desk.of(trainer).journal.notes if "WeightInitMixin" in note]


def state(model: pl.LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_in_the_order_of_apply() -> None:
    model = Filled()
    trainer = fit(model)
    order: list[nn.Module] = []
    model.apply(order.append)
    assert model.shown == order
    assert model.shown[-1] is model
    assert all(float(layer.bias.detach().min()) == 0.125 for layer in model.net if isinstance(layer, nn.Linear))
    assert notes(trainer) == ["WeightInitMixin showed 3 layers with parameters to `init_weight` (seed 0)"]
    assert "configure_model" not in vars(model)


def test_a_module_that_two_hold_has_one_turn() -> None:
    class Shared(Filled):
        def build(self) -> nn.Module:
            inner = nn.Linear(8, 8)
            return nn.Sequential(nn.Sequential(inner), nn.Sequential(inner), nn.Linear(8, 3))

    fit(model := Shared())
    assert len(model.shown) == len(set(model.shown)) == len(list(model.modules()))


@pytest.mark.parametrize("scheme", ["he", "xavier", "orthogonal"])
def test_the_default_is_the_callbacks_scheme(scheme: Any) -> None:
    class Recurrent(WeightInitMixin, LSTMNet):
        init_scheme = scheme

    fit(model := Recurrent(lr=0.0))
    lstm, head = model.net["lstm"], model.net["head"]
    assert float(head.bias.detach().abs().max()) == 0
    assert (lstm.bias_ih_l0 + lstm.bias_hh_l0)[12:24].tolist() == [1.0] * 12
    gates = lstm.weight_hh_l0.detach().chunk(4)
    assert all(torch.allclose(gate @ gate.T, torch.eye(12), atol=1e-5) for gate in gates)
    expected = {"he": (2 / 12) ** 0.5, "xavier": (2 / 15) ** 0.5, "orthogonal": (1 / 12) ** 0.5}[scheme]
    assert float(head.weight.detach().square().mean().sqrt()) == pytest.approx(expected, rel=0.35)


def test_layers_of_configure_model_are_there_and_optimizers_are_not() -> None:
    class Late(Filled):
        def __init__(self) -> None:
            super().__init__()
            del self.net
            self.made = False

        def configure_model(self) -> None:
            if not hasattr(self, "net"):
                self.net = self.build()

        def configure_optimizers(self) -> Any:
            self.seen = state(self)
            return super().configure_optimizers()

    fit(model := Late())
    assert len([layer for layer in model.shown if isinstance(layer, nn.Linear)]) == 3
    assert same(model.seen, state(model))


def test_draws_depend_on_seed_and_name_alone() -> None:
    def filled(seed: int) -> dict[str, torch.Tensor]:
        pl.seed_everything(seed, verbose=False)
        torch.rand(seed)
        fit(model := Filled())
        return state(model)

    assert same(filled(1), filled(1))
    assert not same(filled(1), filled(2))


def test_the_runs_own_random_numbers_stay() -> None:
    class Mixed(WeightInitMixin, DropoutNet):
        pass

    states = []
    for kind in (DropoutNet, Mixed):
        pl.seed_everything(7, verbose=False)
        fit(kind())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


class TestTrainedWeightsStay:
    def test_a_second_fit(self) -> None:
        model = Default(lr=0.1)
        trainer = fit(model)
        trained, model.lr = state(model), 0.0
        trainer.fit_loop.max_epochs = 2
        trainer.fit(model)
        fit(model)
        assert same(state(model), trained)

    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
    def test_resumed_equals_bare_lightning(self, tmp_path: Path) -> None:
        keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        fit(Default(lr=0.1), keep, max_epochs=2, enable_checkpointing=True)
        ends = []
        for kind in (Mlp, Default):
            trainer = quiet_trainer(max_epochs=3, limit_val_batches=0)
            trainer.fit(model := kind(seed=0, lr=0.1), ckpt_path=tmp_path / "epoch=0.ckpt")
            ends.append(state(model))
        assert same(*ends)

    def test_loaded_before_the_fit(self) -> None:
        donor = Mlp(seed=3)
        model = Default(lr=0.0)
        model.load_state_dict(donor.state_dict())
        trainer = fit(model)
        assert same(state(model), state(donor))
        assert notes(trainer) == ["WeightInitMixin left all weights alone: they were loaded before the fit"]

    def test_a_pretrained_part(self) -> None:
        donor, model = Mlp(seed=3), Default(lr=0.0)
        model.net[2].load_state_dict(donor.net[2].state_dict())
        trainer = fit(model)
        assert torch.equal(model.net[2].weight, donor.net[2].weight)
        assert float(model.net[0].bias.detach().abs().max()) == 0
        assert notes(trainer)[0].endswith("set before the fit and left alone: net.2")

    def test_unless_asked(self) -> None:
        class Over(Default):
            init_overwrite = True

        donor, model = Mlp(seed=3), Over(lr=0.0)
        model.load_state_dict(donor.state_dict())
        fit(model)
        assert not torch.equal(model.net[0].weight, donor.net[0].weight)

    def test_a_learning_rate_finder_puts_them_back(self) -> None:
        pl.seed_everything(1, verbose=False)
        model = Default(lr=0.1)
        trainer = quiet_trainer(enable_checkpointing=True, limit_val_batches=0)
        Tuner(trainer).lr_find(model, num_training=3, update_attr=False)
        found = state(model)
        pl.seed_everything(1, verbose=False)
        fit(plain := Default(lr=0.0))
        assert same(found, state(plain))


@pytest.mark.parametrize("scheme", ["he", "auto", "lsuv"])
def test_what_it_fills_stays_and_the_callback_does_the_rest(scheme: str) -> None:
    class Half(WeightInitMixin, Mlp):
        def init_weight(self, layer: nn.Module) -> None:
            if layer is self.net[0]:
                nn.init.constant_(layer.weight, 0.5)
                with torch.no_grad():
                    layer.weight[0, 0] = 0.25

    callback = WeightInitCallback(scheme)
    fit(model := Half(lr=0.0), callback)
    assert float(model.net[0].weight.detach()[0, 1]) == 0.5
    assert [row.name for row in callback.report_.initialized] == ["net.2.weight", "net.4.weight"]
    assert "net.0.weight" in callback.report_.left_alone


def test_evaluation_alone_changes_nothing() -> None:
    model = Default()
    before = state(model)
    trainer = quiet_trainer()
    trainer.validate(model, verbose=False)
    trainer.predict(model)
    assert same(state(model), before)
    assert "configure_model" not in vars(model)


def test_nothing_stays_after_an_exception() -> None:
    class Broken(Default):
        def setup(self, stage: str) -> None:
            raise RuntimeError("no data")

    model = Broken()
    with pytest.raises(RuntimeError, match="no data"):
        fit(model)
    assert "configure_model" not in vars(model)


def test_meta_weights_are_refused() -> None:
    class Meta(WeightInitMixin, TinyModule):
        def build(self) -> nn.Module:
            return nn.Linear(8, 3, device="meta")

    model = Meta()
    (hook,) = model.configure_callbacks()
    hook.setup(quiet_trainer(), model, "fit")
    with pytest.raises(MisconfigurationException, match=r"'net': its weights are on the meta device"):
        model.configure_model()


def test_one_layer() -> None:
    frozen = nn.Linear(3, 2)
    frozen.weight.requires_grad_(False)
    before = frozen.weight.clone()
    assert initialize_layer_(frozen) is frozen
    assert torch.equal(frozen.weight, before)
    norm = nn.LayerNorm(3)
    assert torch.equal(initialize_layer_(norm).weight, torch.ones(3))
    conv = initialize_layer_(nn.Conv2d(4, 64, 3), "lecun", bias=None, generator=torch.Generator().manual_seed(0))
    assert float(conv.weight.detach().std()) == pytest.approx(1 / 6, rel=0.05)
    assert float(conv.bias.detach().abs().max()) > 0
    lstm = nn.LSTM(3, 2)
    lstm.bias_hh_l0.requires_grad_(False)
    kept = lstm.bias_hh_l0.clone()
    initialize_layer_(lstm)
    assert torch.equal(lstm.bias_hh_l0, kept)
