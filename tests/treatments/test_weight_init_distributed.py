"""Two processes that start from different seeds end with the same weights."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import Mlp, quiet_trainer


class Spread(Mlp):
    """Writes down what each rank ends with."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lr=0.0, batches=2)
        self.folder = folder

    def on_train_end(self) -> None:
        torch.save(self.state_dict(), self.folder / f"{self.global_rank}.pt")


class SeedApart(pl.Callback):
    """Attached first: the seed that the other callbacks see differs from rank to rank."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch.manual_seed(100 + trainer.global_rank)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_ranks_end_with_equal_weights(tmp_path: Path) -> None:
    callbacks = [SeedApart(), WeightInitCallback({"net.2": "orthogonal", "*": "auto"})]
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", callbacks=callbacks, limit_val_batches=0)
    trainer.fit(Spread(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    untouched = Mlp().state_dict()
    assert not any(torch.equal(first[name], untouched[name]) for name in first)
    single = Mlp(lr=0.0)
    quiet_trainer(callbacks=[WeightInitCallback({"net.2": "orthogonal", "*": "auto"}, seed=100)]).fit(single)
    assert all(torch.equal(first[name], value) for name, value in single.state_dict().items())
