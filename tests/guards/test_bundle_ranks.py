"""Two processes on gloo with one rank's bad batch: that rank writes, both say the same, and nobody waits for ever."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_tuning import Journal, NanLossGuard, TuningError
from lightning_tuning.guards.bundle import read_bundle, repeat_bundle
from tests.guards.faulty import FaultyBN
from tests.helpers import quiet_trainer
from tests.ranks import gloo, on_two_ranks

RUNS: dict[str, tuple[dict[int, dict[int, str]], dict[str, Any]]] = {
    # faults by rank, arguments of the guard
    "second": ({1: {2: "log"}}, {"action": "skip"}),
    "first": ({0: {2: "sample"}}, {"action": "skip"}),
    "both": ({0: {2: "log"}, 1: {2: "log"}}, {"action": "skip"}),
    "raise": ({1: {2: "log"}}, {"action": "raise"}),
    "bound": ({1: dict.fromkeys(range(1, 4), "log")}, {"action": "skip", "max_bundles": 1}),
    "unwritable": ({1: {2: "log"}}, {"action": "skip", "bundle_dir": "a_file/bundles"}),
    "breaks": ({1: {1: "log", 3: "log"}}, {"action": "skip"}),
}


def train(rank: int, name: str) -> dict[str, Any]:
    faults, arguments = RUNS[name]
    Path("a_file").touch()
    model = FaultyBN(faults.get(rank, {}), seed=rank, batches=4)
    if name == "breaks" and rank == 1:  # the writing itself, in a way that nobody thought of

        def broken() -> Any:
            raise RuntimeError("no state\nto give")

        model.configure_optimizers = lambda: _with(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), broken)
    guard = NanLossGuard(**{"bundle_dir": f"bundles/{name}", **arguments})
    trainer = quiet_trainer(callbacks=[guard], strategy=gloo(), devices=2, use_distributed_sampler=False)
    error = None
    try:
        trainer.fit(model)
    except TuningError as raised:
        error = raised.finding.message
    journal = Journal.of(trainer)
    return {
        "error": error,
        "messages": [finding.message for finding in journal.findings],
        "notes": [note for note in journal.notes if "bundle" in note],
        "weights": [parameter.detach().clone() for parameter in model.parameters()],
    }


def _with(optimizer: torch.optim.Optimizer, state_dict: Any) -> torch.optim.Optimizer:
    optimizer.state_dict = state_dict  # type: ignore[method-assign]
    return optimizer


def train_all(rank: int) -> dict[str, Any]:
    ends: dict[str, Any] = {name: train(rank, name) for name in RUNS}
    if rank == 0:
        ends["written"] = {}
        for path in sorted(Path("bundles").glob("*/*")):
            bundle = read_bundle(path)
            with contextlib.suppress(KeyError):
                faults = RUNS[path.parent.name][0][bundle.run["rank"]]
            model = FaultyBN(faults, seed=5, batches=4)
            facts = {key: bundle.run[key] for key in ("rank", "world_size", "step", "strategy")}
            facts["finite buffers"] = all(torch.isfinite(buffer).all() for buffer in bundle.buffers.values())
            facts["same"] = repeat_bundle(bundle, model).same
            ends["written"].setdefault(path.parent.name, []).append((path.name, facts))
    return ends


@pytest.fixture(scope="module")
def ends() -> list[dict[str, Any]]:
    return on_two_ranks(train_all)


@pytest.mark.parametrize("name", RUNS)
def test_ranks_say_the_same(ends: list[dict[str, Any]], name: str) -> None:
    first, second = (end[name] for end in ends)
    assert first["notes"] == second["notes"]
    assert first["notes"] != []
    assert first["error"] == second["error"]
    if first["error"] is None:
        assert first["messages"] == second["messages"]
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "rank"), [("second", 1), ("first", 0), ("both", 0), ("raise", 1), ("bound", 1)])
def test_the_rank_whose_batch_is_bad_writes(ends: list[dict[str, Any]], name: str, rank: int) -> None:
    ((folder, facts),) = ends[0]["written"][name]
    assert folder.endswith(f"-rank{rank}")
    expected = {"rank": rank, "world_size": 2, "strategy": "DDPStrategy", "finite buffers": True, "same": True}
    assert {key: facts[key] for key in expected} == expected


def test_where_nothing_could_be_written_the_run_went_on(ends: list[dict[str, Any]]) -> None:
    assert not {"unwritable", "breaks"} & set(ends[0]["written"])
    assert "no bundle was written: NotADirectoryError" in ends[0]["unwritable"]["messages"][0]
    assert ends[0]["breaks"]["notes"] == ["NanLossGuard could not write a bundle: RuntimeError: no state"]
