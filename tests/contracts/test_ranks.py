"""On two ranks: every callback ends well on both, replicas stay equal, observers change nothing bit for bit.

The runs share one pair of processes; only one goes through ``ddp_spawn``, with every callback on board.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_tuning import Journal, Severity
from tests.contracts.discovery import CALLBACKS, OBSERVERS, make
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

STEPS = 3
RUNS: dict[str, list[str]] = {
    "bare": [],
    **{name: [name] for name in CALLBACKS},
    "observers": list(OBSERVERS),
    "everything": list(CALLBACKS),
}


def fit(names: list[str], *callbacks: pl.Callback, **settings: Any) -> dict[str, Any]:
    pl.seed_everything(5, verbose=False)
    trainer, model = quiet_trainer(callbacks=[*map(make, names), *callbacks], max_steps=STEPS, **settings), Mlp()
    trainer.fit(model)
    return outcome(trainer, model)


def outcome(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "steps": trainer.global_step,
        "wrong": [finding.text() for finding in Journal.of(trainer).findings if finding.severity >= Severity.WARNING],
    }


class Writes(pl.Callback):
    """What the ranks know ends with them: each writes it down."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.save(outcome(trainer, pl_module), f"rank {trainer.global_rank}.pt")


def everything(rank: int) -> dict[str, dict[str, Any]]:
    return {run: fit(names, strategy=gloo(), devices=2) for run, names in RUNS.items()}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(everything)


@pytest.mark.parametrize("run", RUNS)
def test_both_ranks_end_well_and_alike(run: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    one, other = (rank[run] for rank in ranks)
    assert_identical(one, other)
    assert one["steps"] == STEPS
    assert one["wrong"] == []
    assert all(bool(value.isfinite().all()) for value in one["weights"].values())


@pytest.mark.parametrize("run", [*OBSERVERS, "observers", "TuningSuite", "NanLossGuard", "PlateauLR"])
def test_a_healthy_run_is_changed_by_no_bit(run: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    assert_identical(ranks[0][run], ranks[0]["bare"])


def test_a_spawned_run_with_everything_is_the_launched_one(ranks: list[dict[str, dict[str, Any]]]) -> None:
    trainer = quiet_trainer(
        callbacks=[*map(make, CALLBACKS), Writes()], strategy="ddp_spawn", devices=2, max_steps=STEPS
    )
    pl.seed_everything(5, verbose=False)
    trainer.fit(Mlp())
    for rank in range(2):
        assert_identical(torch.load(Path(f"rank {rank}.pt"), weights_only=False), ranks[0]["everything"])
