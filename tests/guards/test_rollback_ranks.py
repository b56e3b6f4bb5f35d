"""Two processes on gloo, one rank's bad batch: both go back, to the same step, and stay equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tuning import Journal, NanLossGuard, TuningError
from tests.guards.faulty import FaultyBN
from tests.guards.test_nan_loss_ranks import Manual
from tests.guards.test_nan_loss_rollback import Diary, records
from tests.helpers import quiet_trainer
from tests.ranks import gloo, on_two_ranks


class Broken(FaultyBN):
    """One rank's weight is infinite after batch 3 of the first epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3 and self.faults and not self.current_epoch:
            with torch.no_grad():
                next(self.parameters()).view(-1)[0] = float("inf")


RUNS: dict[str, tuple[type, Any, dict[str, Any], dict[str, Any]]] = {
    # model, faults of rank 1, arguments of the guard, settings of the trainer
    "sample": (FaultyBN, {4: "sample"}, {}, {}),
    "gradient": (FaultyBN, {4: "gradient"}, {}, {}),
    "first": (FaultyBN, {0: "nan"}, {}, {"max_epochs": 1}),
    "window": (FaultyBN, {4: "sample"}, {}, {"accumulate_grad_batches": 2}),
    "manual": (Manual, {4: "nan"}, {}, {}),
    "weights": (Broken, {99: "none"}, {}, {}),
    "too-many": (FaultyBN, {2: "sample", 4: "sample"}, {"max_rollbacks": 1}, {}),
}


def train(rank: int, name: str) -> dict[str, Any]:
    kind, faults, arguments, settings = RUNS[name]
    guard, diary = NanLossGuard("rollback", snapshot_every_n_steps=1, **arguments), Diary()
    model = kind(faults if rank == 1 else {}, seed=rank, batches=6)
    trainer = quiet_trainer(
        callbacks=[guard, diary],
        strategy=gloo(),
        devices=2,
        use_distributed_sampler=False,
        **{"max_epochs": 2, **settings},
    )
    error = None
    try:
        trainer.fit(model)
    except TuningError as raised:
        error = str(raised)
    return {
        "error": error,
        "findings": [finding.to_dict() for finding in Journal.of(trainer).findings],
        "went_back": diary.went_back,
        "rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "undone": [record.undone for record in records(trainer)],
        "parameters": {key: value.detach().clone() for key, value in model.named_parameters()},
        "finite": all(torch.isfinite(value).all() for value in model.state_dict().values()),
    }


def train_all(rank: int) -> dict[str, dict[str, Any]]:
    return {name: train(rank, name) for name in RUNS}


@pytest.fixture(scope="module")
def ends() -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(train_all)


@pytest.mark.parametrize(
    ("name", "went_back"),
    [
        ("sample", [(5, 3), (11, 9)]),
        ("gradient", [(5, 3), (11, 9)]),
        ("first", [(1, 0)]),
        ("window", [(2, 1), (5, 4)]),
        ("manual", [(2, 1), (5, 4)]),
        ("weights", [(5, 3)]),
        ("too-many", [(3, 1)]),
    ],
)
def test_both_go_back_together(
    ends: list[dict[str, dict[str, Any]]], name: str, went_back: list[tuple[int, int]]
) -> None:
    first, second = (end[name] for end in ends)
    assert first["went_back"] == second["went_back"] == went_back
    for key in ("rates", "undone", "error", *(("findings",) if first["error"] is None else ())):
        assert first[key] == second[key], key
    for key, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][key]), key
    assert first["finite"]
    assert second["finite"]


def test_too_many_raise_on_both(ends: list[dict[str, dict[str, Any]]]) -> None:
    assert all("given up after 1 rollback (`max_rollbacks`)" in end["too-many"]["error"] for end in ends)
