from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning import BatchNormCheck, ConvertBatchNorm, Journal
from lightning_tuning.functional import BatchRenorm2d, FrozenBatchNorm, convert_batch_norm
from tests.helpers import BNConvNet, ManualGAN, Mlp, quiet_trainer

KINDS = {"group": nn.GroupNorm, "frozen": FrozenBatchNorm, "renorm": BatchRenorm2d, "sync": nn.SyncBatchNorm}
RENORM = {"r_steps": (0, 4), "d_steps": (0, 4)}


def fit(model: pl.LightningModule, *callbacks: pl.Callback, ckpt_path: Any = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=[*callbacks], **settings)
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


class ByHand(BNConvNet):
    """Converted in the constructor, as one would without the callback."""

    def __init__(self, to: Any, **arguments: Any) -> None:
        super().__init__()
        convert_batch_norm(self, to, **arguments)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}], ids=str)
def test_the_run_is_that_of_a_net_converted_by_hand(to: Any, settings: dict[str, Any]) -> None:
    arguments = RENORM if to == "renorm" else {}
    model, by_hand = BNConvNet(), ByHand(to, **arguments)
    trainer = fit(model, ConvertBatchNorm(to, **arguments), **settings)
    fit(by_hand, **settings)
    assert isinstance(model.net[1], KINDS[to])
    assert f"ConvertBatchNorm converted 2 batch norms to {to!r}" in Journal.of(trainer).notes
    ours, theirs = model.state_dict(), by_hand.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


class Late(BNConvNet):
    """The net comes with ``configure_model``."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.net = self.build()


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("kind", [BNConvNet, Late])
def test_resumed_and_evaluated_from_its_checkpoint(to: Any, kind: type[BNConvNet], tmp_path: Path) -> None:
    """A fresh net with batch norms takes the checkpoint of the converted one, since it is converted first."""
    path = tmp_path / "half.ckpt"
    half = fit(kind(), ConvertBatchNorm(to))
    half.save_checkpoint(path)
    resumed = fit(kind(), ConvertBatchNorm(to), ckpt_path=path, max_epochs=2).lightning_module
    whole = fit(ByHand(to), max_epochs=2).lightning_module
    states = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    (result,) = quiet_trainer(callbacks=[ConvertBatchNorm(to)]).validate(kind(), ckpt_path=path, verbose=False)
    (expected,) = quiet_trainer().validate(ByHand(to), ckpt_path=path, verbose=False)
    assert result == expected


def test_a_second_fit_finds_it_done() -> None:
    model, callback = BNConvNet(), ConvertBatchNorm("group", include="net")
    fit(model, callback)
    norm = model.net[1]
    trainer = fit(model, callback)
    assert model.net[1] is norm
    assert "ConvertBatchNorm found no batch norm that was to be converted" in Journal.of(trainer).notes


@pytest.mark.parametrize("model", [Mlp, ManualGAN])
def test_a_net_without_batch_norms_is_left_as_it_is(model: Any) -> None:
    assert "found no batch norm" in " ".join(Journal.of(fit(model(), ConvertBatchNorm("frozen"))).notes)


def test_only_some() -> None:
    model = BNConvNet()
    fit(model, ConvertBatchNorm("frozen", include=["net.1"]))
    assert isinstance(model.net[1], FrozenBatchNorm)
    assert isinstance(model.net[4], nn.BatchNorm2d)


def test_a_glob_that_means_nothing_is_refused() -> None:
    model = BNConvNet()
    with pytest.raises(
        MisconfigurationException, match=r"ConvertBatchNorm\('group'\): `include` must mean a batch norm"
    ):
        fit(model, ConvertBatchNorm("group", include="net.0"))
    assert "configure_model" not in vars(model)


def test_batch_renormalization_is_no_batch_norm_of_a_small_batch() -> None:
    """LT307 is about a norm that was not made for that."""
    trainer = fit(BNConvNet(batch_size=4), BatchNormCheck())
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT307"]
    trainer = fit(BNConvNet(batch_size=4), ConvertBatchNorm("renorm"), BatchNormCheck())
    assert [finding.code for finding in Journal.of(trainer).findings] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "batch"}, r"`to` must be one of"),
        ({"to": "group", "groups": 1.5}, r"`groups` must be a whole number of at least 1, got 1\.5\."),
        ({"to": "renorm", "d_max": -1}, r"`d_max` must be a finite number of at least 0, got -1\."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvertBatchNorm(**arguments)
