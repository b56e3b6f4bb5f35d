"""Two processes on gloo, and one rank's bad batch: the same decision on both, no hang, equal replicas.

All runs share one pair of processes: starting them takes longer than training.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tuning import Journal, NanLossGuard, TuningError
from lightning_tuning.guards._ranks import AloneMode
from tests.guards.faulty import FaultyBN, Witness
from tests.helpers import quiet_trainer
from tests.ranks import gloo, on_two_ranks


class Talking(FaultyBN):
    """Its step waits for the other rank before it can go wrong."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        everyone = self.all_gather(batch[0].sum())
        return super().training_step(batch, batch_idx) + 0 * everyone.nan_to_num().sum()


class Manual(FaultyBN):
    """Accumulates two batches by hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


RUNS: dict[str, tuple[type, Any, dict[str, Any], dict[str, Any]]] = {
    # model, faults of rank 1, arguments of the guard, settings of the trainer
    "skip-sample": (FaultyBN, {2: "sample"}, {"action": "skip"}, {}),
    "skip-log": (FaultyBN, {2: "log"}, {"action": "skip"}, {}),
    "skip-constant": (FaultyBN, {2: "nan"}, {"action": "skip"}, {}),
    "skip-gradient": (FaultyBN, {2: "gradient"}, {"action": "skip"}, {}),
    "skip-window": (FaultyBN, {2: "sample"}, {"action": "skip"}, {"accumulate_grad_batches": 2}),
    "skip-talking": (Talking, {2: "log"}, {"action": "skip"}, {}),
    "skip-manual": (Manual, {2: "nan"}, {"action": "skip"}, {}),
    "raise": (FaultyBN, {2: "sample"}, {}, {}),
    "raise-too-many": (FaultyBN, {2: "sample", 3: "sample"}, {"action": "skip", "max_skips": 1}, {}),
    "stop": (FaultyBN, {2: "sample"}, {"action": "stop"}, {"min_epochs": 2}),
    "healthy": (FaultyBN, {}, {"action": "skip"}, {}),
}


def train(rank: int, name: str) -> dict[str, Any]:
    kind, faults, arguments, settings = RUNS[name]
    guard, witness = NanLossGuard(**arguments), Witness()
    model = kind(faults if rank == 1 else {}, seed=rank, batches=4)
    trainer = quiet_trainer(
        callbacks=[guard, witness],
        strategy=gloo(),
        devices=2,
        use_distributed_sampler=False,
        **{"max_epochs": 2, **settings},
    )
    error = None
    try:
        trainer.fit(model)
    except TuningError as raised:
        error = [raised.finding.headline(), raised.finding.step, raised.finding.to_dict()["evidence"]]
    return {
        "error": error,
        "findings": [finding.to_dict() for finding in Journal.of(trainer).findings],
        "skipped": guard.skipped,
        "step": trainer.global_step,
        "changed": witness.changed,
        "parameters": {key: value.detach().clone() for key, value in model.named_parameters()},
        "finite": all(torch.isfinite(value).all() for value in model.state_dict().values()),
    }


def train_all(rank: int) -> dict[str, dict[str, Any]]:
    return {name: train(rank, name) for name in RUNS}


@pytest.fixture(scope="module")
def ends() -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(train_all)


@pytest.mark.parametrize("name", RUNS)
def test_ranks_do_the_same(ends: list[dict[str, dict[str, Any]]], name: str) -> None:
    first, second = (end[name] for end in ends)
    for key in ("error", "skipped", "step", "changed", *(("findings",) if first["error"] is None else ())):
        assert first[key] == second[key], key
    for key, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][key]), key
    assert first["finite"]
    assert second["finite"]


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        ("skip-sample", "LT701", "bad-sample"),
        ("skip-log", "LT701", "log-of-zero"),
        ("skip-constant", "LT701", "constant"),
        ("skip-gradient", "LT702", "norm-at-zero"),
        ("skip-window", "LT701", "bad-sample"),
        ("skip-talking", "LT701", "unknown"),
        ("skip-manual", "LT701", "constant"),
    ],
)
def test_skip_on_both_names_the_rank(ends: list[dict[str, dict[str, Any]]], name: str, code: str, cause: str) -> None:
    end = ends[0][name]
    assert end["skipped"] == 2  # one in each epoch
    (finding,) = end["findings"]
    assert (finding["code"], finding["evidence"]["cause"], finding["count"]) == (code, cause, 2)
    assert finding["evidence"]["rank"] == 1
    assert "on rank 1" in finding["message"]
    assert end["step"] == (4 if name in ("skip-window", "skip-manual") else 8)
    assert end["changed"] == 2 * [True, True, False, True]  # a healthy batch of a dropped window keeps its batch norm


def test_a_step_that_talks_is_not_repeated_alone(ends: list[dict[str, dict[str, Any]]]) -> None:
    (finding,) = ends[0]["skip-talking"]["findings"]
    assert "communicates with other ranks" in finding["evidence"]["blind"]


@pytest.mark.parametrize(("name", "step"), [("raise", 2), ("raise-too-many", 3)])
def test_raise_on_both(ends: list[dict[str, dict[str, Any]]], name: str, step: int) -> None:
    for end in ends:
        assert end[name]["error"][1] == step
        assert end[name]["error"][2]["rank"] == 1


def test_stop_on_both(ends: list[dict[str, dict[str, Any]]]) -> None:
    assert [end["stop"]["step"] for end in ends] == [3, 3]


def test_healthy_ranks(ends: list[dict[str, dict[str, Any]]]) -> None:
    for end in ends:
        assert end["healthy"]["findings"] == []
        assert all(end["healthy"]["changed"])


def test_alone_mode_lets_local_work_through() -> None:
    with AloneMode():
        assert torch.ones(2).sum() == 2
