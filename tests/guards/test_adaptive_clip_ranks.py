"""Two ranks: the same gradients, thresholds and weights on both, whether parameters are copied or sharded.

All runs share one pair of processes. Each rank sees one half of every batch, the process they are compared with the
whole of it.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning import AdaptiveClipGuard, Journal
from tests.helpers import quiet_trainer
from tests.measure.test_sharding import RUNS, Uneven
from tests.ranks import on_two_ranks

METHODS: dict[str, dict[str, Any]] = {
    "percentile": {"window": 10, "warmup": 3},
    "zscore": {"warmup": 3, "threshold": 1.0},
    "agc": {"threshold": 0.1},
    "value": {"threshold": 0.02},
}
STRATEGIES = ("ddp", "fsdp1", "fsdp2")
CASES = [(way, method) for way in STRATEGIES for method in METHODS if (way, method) != ("fsdp1", "value")]
STEPS = 12


def fit(method: str, kind: type[Uneven], **settings: Any) -> dict[str, Any]:
    pl.seed_everything(1, verbose=False)
    guard = AdaptiveClipGuard(method, **METHODS[method])  # type: ignore[arg-type]
    settings = {"max_steps": STEPS, "limit_val_batches": 0, "use_distributed_sampler": False, **settings}
    trainer, model = quiet_trainer(callbacks=[guard], **settings), kind(batches=STEPS)
    try:
        trainer.fit(model)
    except MisconfigurationException as error:
        return {"refused": str(error)}
    state = guard.tuning_state()["thresholds"].get(0, {})
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {
        "notes": Journal.of(trainer).notes,
        "state": {name: value.tolist() if torch.is_tensor(value) else value for name, value in state.items()},
        "weights": {
            name: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()
            for name, value in weights.items()
        },
    }


def everything(rank: int) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (way, method): fit(method, RUNS[way][0], strategy=RUNS[way][1](), devices=2, accelerator="cpu")
        for way, method in CASES
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[tuple[str, str], dict[str, Any]]]:
    return on_two_ranks(everything)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_both_ranks_clip_alike_and_as_one_process_does(case: tuple[str, str], ranks: Any) -> None:
    way, method = case
    one, other = (rank[case] for rank in ranks)
    if way != "ddp" and method == "agc":
        assert "no rank has a whole unit" in one["refused"]
        return
    alone = fit(method, Uneven)
    assert one["notes"] == other["notes"]
    assert one["state"] == other["state"]
    if way != "fsdp1":  # where each rank has pieces
        for name, value in one["weights"].items():
            torch.testing.assert_close(value, other["weights"][name], rtol=0, atol=0)
            torch.testing.assert_close(value, alone["weights"][name], rtol=1e-3, atol=1e-4)
    if method == "percentile":
        assert one["state"]["history"] == pytest.approx(alone["state"]["history"], rel=1e-3)
