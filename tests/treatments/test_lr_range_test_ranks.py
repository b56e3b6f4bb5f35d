"""On two ranks: the sweep trains as DDP does, both suggest the same, and replicas stay equal."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_tuning import LRRangeTest
from lightning_tuning.functional.lr_range import sweep_rates
from lightning_tuning.treatments._lr_sweep import train_aside
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import BNConvNet, blobs, quiet_trainer
from tests.ranks import gloo, on_two_ranks

RATES = sweep_rates(1e-3, 0.3, 8)


class Net(BNConvNet):
    """Each rank has data of its own, and a last layer that only one of them uses."""

    def train_dataloader(self) -> Any:
        rank = self.trainer.global_rank
        return DataLoader(blobs(128, self.shape, seed=rank), batch_size=8)

    def build(self) -> Any:
        net = super().build()
        self.extra = torch.nn.Linear(3, 3)
        return net

    def forward(self, x: Any) -> Any:
        logits = super().forward(x)
        return self.extra(logits) if self.trainer.global_rank else logits


class ByHand(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        optimizer.param_groups[0]["lr"] = RATES[trainer.global_step]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))


class Swept(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.losses:
            self.losses = train_aside(trainer, pl_module, RATES)


def fit(*callbacks: pl.Callback, steps: int) -> dict[str, Any]:
    pl.seed_everything(5, verbose=False)
    strategy = gloo()
    strategy._ddp_kwargs["find_unused_parameters"] = True
    settings = {"strategy": strategy, "devices": 2, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    trainer, model = quiet_trainer(callbacks=[*callbacks], max_steps=steps, limit_val_batches=0, **settings), Net()
    trainer.fit(model)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    return {"weights": weights, "optimizer": trainer.optimizers[0].state_dict()}


def everything(rank: int) -> dict[str, Any]:
    by_hand, swept = ByHand(), Swept()
    test, look = LRRangeTest(steps=30, verify=10), LRRangeTest(steps=30, verify=10, update=False)
    fit(by_hand, steps=8)
    fit(swept, steps=1)
    found = {"bare": fit(steps=4), "looked": fit(look, steps=4), "tested": fit(test, steps=4)}
    assert test.result_ is not None
    assert look.result_ is not None
    return {
        **found,
        "by hand": by_hand.losses,
        "swept": swept.losses,
        "results": (test.result_.to_dict(), look.result_.to_dict()),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return on_two_ranks(everything)


def test_it_trains_as_ddp_does(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["swept"] == ranks[1]["swept"]
    assert ranks[0]["swept"] == pytest.approx(ranks[0]["by hand"], rel=1e-4)


def test_both_ranks_have_one_result(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["results"] == ranks[1]["results"]
    assert ranks[0]["results"][0] == ranks[0]["results"][1]
    assert ranks[0]["results"][0]["suggested"] is not None


def test_replicas_stay_equal_at_the_new_rate(ranks: list[dict[str, Any]]) -> None:
    assert_identical(ranks[0]["tested"], ranks[1]["tested"])
    rate = ranks[0]["tested"]["optimizer"]["param_groups"][0]["lr"]
    assert rate == ranks[0]["results"][0]["suggested"]


def test_without_an_update_the_run_is_the_bare_one(ranks: list[dict[str, Any]]) -> None:
    assert_identical(ranks[0]["looked"], ranks[0]["bare"])
