"""On two ranks with seeds and data of their own the weights are one and the same, batch or no batch."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tuning.mixins import WeightInitMixin
from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import Mlp, blobs, quiet_trainer
from tests.ranks import gloo, on_two_ranks


class Residual(Mlp):
    """A head behind one residual branch."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.net[2](self.net[0](x).relu())
        return self.net[4](x)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def train_dataloader(self) -> Any:
        return DataLoader(blobs(64, seed=torch.initial_seed()), batch_size=16)  # other samples on each rank


class Mixed(WeightInitMixin, Residual):
    pass


def train(rank: int, kind: type[Residual], options: dict[str, Any] | None) -> dict[str, Any]:
    model = kind(lr=0.05)
    pl.seed_everything(100 + rank, verbose=False)
    callback = None if options is None else WeightInitCallback(**options)
    trainer = quiet_trainer(
        devices=2, strategy=gloo(), limit_val_batches=0, use_distributed_sampler=False, callbacks=callback
    )
    trainer.fit(model)
    report = None if callback is None else callback.report_
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "rows": [] if report is None else [(row.name, row.scheme, row.variance) for row in report.initialized],
        "notes": [] if report is None else report.notes,
    }


CASES: dict[str, tuple[type[Residual], dict[str, Any] | None]] = {
    "lsuv": (Residual, {"scheme": "lsuv", "residual": "zero", "head_bias": "prior"}),
    "fixup": (Residual, {"scheme": "he", "residual": "fixup", "head_bias": "prior"}),
    "mixin": (Mixed, None),
    "mixin and callback": (Mixed, {"overwrite": True}),
}


def both(rank: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    return {name: train(rank, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return on_two_ranks(both)


@pytest.mark.parametrize("case", CASES)
def test_replicas_stay_equal(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case] for rank in ranks)
    assert all(torch.equal(first["weights"][name], value) for name, value in second["weights"].items())
    assert first["rows"] == second["rows"]
    assert first["notes"] == second["notes"]


def test_each_did_its_part(ranks: list[dict[str, Any]]) -> None:
    lsuv, fixup = ranks[1]["lsuv"], ranks[1]["fixup"]
    assert [scheme for _, scheme, _ in lsuv["rows"]] == ["lsuv", "zero", "lsuv"]
    assert [scheme for _, scheme, _ in fixup["rows"]] == ["fixup", "zero", "zero"]
    for one in (lsuv, fixup):
        assert any(note.startswith("head_bias 'prior': net.4.bias is") for note in one["notes"])
