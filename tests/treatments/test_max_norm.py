from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning import Journal, MaxNormConstraint
from lightning_tuning.treatments import max_norm
from tests.helpers import BNConvNet, Mlp, TinyModule
from tests.treatments.regularized import WAYS, assert_alike, assert_nothing_left_on, fit

MOST = 0.4


class Bounds(pl.Callback):
    """After each update, row by row."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            step = optimizer.step

            def stepped(*args: Any, step: Any = step, optimizer: Any = optimizer, **kwargs: Any) -> Any:
                result = step(*args, **kwargs)
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        for row in p.data if p.dim() > 1 else ():
                            row.mul_(min(1.0, MOST / max(float(row.norm()), 1e-12)))
                return result

            optimizer.step = stepped


@pytest.mark.parametrize("way", WAYS)
def test_no_unit_has_larger_weights(way: str) -> None:
    kind, settings = WAYS[way]
    mine, theirs = kind(batches=20), kind(batches=20)
    trainer = fit(mine, MaxNormConstraint(MOST), **settings)
    fit(theirs, Bounds(), **settings)
    assert_alike(mine, theirs, rtol=1e-3, atol=1e-4)
    rows = [row.norm() for p in mine.parameters() if p.dim() > 1 for row in p.detach()]
    assert max(rows) <= MOST * 1.0001
    assert_nothing_left_on(trainer)
    (note,) = Journal.of(trainer).notes
    at_bound = sum(float(norm) >= 0.999 * MOST for norm in rows)
    assert note == f"MaxNormConstraint: {at_bound} of {len(rows)} units end at their bound of {MOST:g}"
    assert at_bound > 0


def test_filters_are_units_and_norms_are_left_alone() -> None:
    model = BNConvNet()
    fit(model, MaxNormConstraint(MOST))
    for layer in (model.net[0], model.net[3], model.net[8]):
        assert float(layer.weight.detach().flatten(1).norm(dim=1).max()) <= MOST * 1.0001
    assert float(model.net[1].weight.detach().norm()) > 1.5


def test_a_transposed_convolution_has_its_units_second() -> None:
    class Transposed(TinyModule):
        shape = (2, 4, 4)

        def build(self) -> nn.Module:
            return nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.Flatten(), nn.Linear(108, 3))

    model, other = Transposed(), Transposed()
    fit(model, MaxNormConstraint(0.3))
    fit(other, MaxNormConstraint(0.3, dim=0))
    of_outputs = [m.net[0].weight.detach().transpose(0, 1).flatten(1).norm(dim=1) for m in (model, other)]
    assert float(of_outputs[0].max()) <= 0.3 * 1.0001
    assert float(other.net[0].weight.detach().flatten(1).norm(dim=1).max()) <= 0.3 * 1.0001


def test_a_bound_that_nothing_reaches_changes_no_bit() -> None:
    mine, bare = Mlp(), Mlp()
    trainer = fit(mine, MaxNormConstraint(1e6))
    fit(bare)
    assert_alike(mine, bare)
    assert Journal.of(trainer).notes == ["MaxNormConstraint: 0 of 35 units end at their bound of 1e+06"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resumed_it_is_bare_lightning_and_the_bound(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    unbroken, resumed = Mlp(), Mlp()
    fit(unbroken, MaxNormConstraint(MOST), saves, max_epochs=3, enable_checkpointing=True)
    fit(resumed, MaxNormConstraint(MOST), max_epochs=3, path=tmp_path / "epoch=0.ckpt")
    assert_alike(unbroken, resumed)


def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharding(SingleDeviceStrategy):
        """Shards nothing; FSDPStrategy refuses to be made without accelerators."""

    monkeypatch.setattr(max_norm, "FSDPStrategy", Sharding)
    with pytest.raises(MisconfigurationException, match="under Sharding no rank has all incoming weights"):
        fit(Mlp(), MaxNormConstraint(), strategy=Sharding(torch.device("cpu")))


def test_a_dimension_that_a_weight_lacks_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"dim=2\): net.0.weight has 2 dimensions only"):
        fit(Mlp(), MaxNormConstraint(dim=2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_norm": 0.0}, "`max_norm` must be a number above 0, got 0.0."),
        ({"max_norm": math.inf}, "`max_norm` must be a number above 0, got inf."),
        ({"dim": -1}, "`dim` must be None or a whole number of at least 0, got -1."),
        ({"dim": True}, "`dim` must be None or a whole number of at least 0, got True."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MaxNormConstraint(**arguments)
