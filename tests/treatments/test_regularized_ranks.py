"""Two ranks: penalties and constraints leave the replicas equal, and sharded parameters are treated as whole ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_tuning import DecoupledWeightDecay, L1Penalty, MaxNormConstraint
from tests.helpers import quiet_trainer
from tests.measure.test_sharding import RUNS, Uneven
from tests.ranks import on_two_ranks

STEPS = 4
TREATMENTS: dict[str, Callable[[], Any]] = {
    "subgradient": lambda: L1Penalty(1e-3, l2=1e-3),
    "proximal": lambda: L1Penalty(1e-2, l2=1e-2, proximal=True),
    "decay": lambda: DecoupledWeightDecay(0.1),
    "max norm": lambda: MaxNormConstraint(0.5),
}
CASES = [(way, name) for way in ("ddp", "fsdp2") for name in TREATMENTS if (way, name) != ("fsdp2", "max norm")]


def fit(name: str, kind: type[Uneven], **settings: Any) -> dict[str, torch.Tensor]:
    pl.seed_everything(1, verbose=False)
    settings = {"max_steps": STEPS, "limit_val_batches": 0, "use_distributed_sampler": False, **settings}
    model = kind(batches=STEPS)
    quiet_trainer(callbacks=[TREATMENTS[name]()], **settings).fit(model)
    return {
        key: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for key, p in model.named_parameters()
    }


def everything(rank: int) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    return {
        (way, name): fit(name, RUNS[way][0], strategy=RUNS[way][1](), devices=2, accelerator="cpu")
        for way, name in CASES
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[tuple[str, str], dict[str, torch.Tensor]]]:
    return on_two_ranks(everything)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_both_ranks_are_as_one_process(case: tuple[str, str], ranks: Any) -> None:
    one, other = (rank[case] for rank in ranks)
    alone = fit(case[1], Uneven)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0)
        torch.testing.assert_close(value, alone[key], rtol=1e-3, atol=1e-4)
