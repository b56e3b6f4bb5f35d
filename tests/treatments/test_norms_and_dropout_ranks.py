"""Two ranks with different data end with the same weights and the same statistics, which are those of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning import (
    ApplyDropout,
    ConvertBatchNorm,
    DropoutSchedule,
    FreezeGuard,
    Journal,
    RecalibrateBatchNorm,
)
from lightning_tuning.functional.batch_norm import recalibrate_batch_norm
from tests.helpers import BNConvNet, quiet_trainer
from tests.ranks import gloo, on_two_ranks


class Split(BNConvNet):
    """Each rank trains on every other batch: Lightning puts in a DistributedSampler."""

    def __init__(self, *, fails_on: int | None = None) -> None:
        super().__init__(lr=0.05)
        self.fails_on = fails_on

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 4 and self.trainer.global_rank == self.fails_on:
            raise RuntimeError("on this rank alone")
        return super().training_step(batch, batch_idx)


class Keeps(RecalibrateBatchNorm):
    """Takes the batches of this rank with it."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.kept = [batch[0] for batch, _ in self._held]
        super().on_train_end(trainer, pl_module)


def _run(callbacks: list[Any], model: Split) -> dict[str, Any]:
    torch.manual_seed(3)
    trainer = quiet_trainer(callbacks=callbacks, devices=2, strategy=gloo())
    trainer.fit(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return {"state": state, "notes": list(Journal.of(trainer).notes)}


def both(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    keeps, model = Keeps(2, when="end"), Split()
    found["recalibrated"] = _run([keeps], model)
    recalibrate_batch_norm(model.net, keeps.kept)  # this rank's own
    found["own"] = {key: value.clone() for key, value in model.net[1].state_dict().items()}
    found["failed"] = _run([RecalibrateBatchNorm(2, when="end")], Split(fails_on=1))
    for to in ("group", "frozen", "renorm"):
        found[to] = _run([ConvertBatchNorm(to)], Split())
    found["dropout"] = _run([ApplyDropout(0.3), DropoutSchedule()], Split())
    found["frozen part"] = _run([FreezeGuard("net.0", parameters=True), FreezeGuard("net.1")], Split())
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return on_two_ranks(both)


@pytest.mark.parametrize("way", ["recalibrated", "group", "frozen", "renorm", "dropout", "frozen part"])
def test_replicas_stay_equal(ranks: list[dict[str, Any]], way: str) -> None:
    states = [rank[way]["state"] for rank in ranks]
    learned = {key for key, value in states[0].items() if "running" not in key and "tracked" not in key}
    compared = states[0].keys() if way == "recalibrated" else learned
    assert all(torch.equal(states[0][key], states[1][key]) for key in compared)
    assert all(value.isfinite().all() for value in states[0].values())


def test_statistics_are_the_mean_over_both_ranks(ranks: list[dict[str, Any]]) -> None:
    for name in ("running_mean", "running_var"):
        own = [rank["own"][name] for rank in ranks]
        assert not torch.equal(*own)
        torch.testing.assert_close(ranks[0]["recalibrated"]["state"][f"net.1.{name}"], (own[0] + own[1]) / 2)


def test_what_one_rank_cannot_none_does(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert any("left the statistics as they were" in note for note in rank["failed"]["notes"])


def test_the_frozen_part_is_as_it_was(ranks: list[dict[str, Any]]) -> None:
    fresh = Split()
    assert isinstance(fresh.net, nn.Sequential)
    state = ranks[0]["frozen part"]["state"]
    assert torch.equal(state["net.0.weight"], fresh.net[0].weight)
    assert torch.equal(state["net.1.running_mean"], torch.zeros(4))
    assert state["net.4.running_mean"].any()
