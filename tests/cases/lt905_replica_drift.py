"""LT905: one rank of two changes a weight of its own, by the last bit of one number.

``tests/guards/test_replica_drift.py`` runs it, among others, on one pair of processes.
"""

from __future__ import annotations

from typing import Any

import torch

from lightning_tuning import ReplicaDriftGuard
from tests.cases.case import Case, Run
from tests.helpers import BNConvNet
from tests.ranks import gloo


class Drifts(BNConvNet):
    """Rank 1 alone changes a weight before batch ``at``.

    Args:
        at: ``None``: never.
        place: of the layer.
    """

    def __init__(self, at: int | None = 3, place: int = 3) -> None:
        super().__init__()
        self.at, self.place = at, place

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        weight = self.net[self.place].weight
        if self.global_rank == 1 and self.global_step == self.at:
            weight.data.view(-1)[5].nextafter_(torch.tensor(9.0))


def run(at: int | None) -> Run:
    return Run(
        lambda: Drifts(at),
        trainer={"devices": 2, "strategy": gloo(), "use_distributed_sampler": False},
        callbacks=lambda: [ReplicaDriftGuard(every_n_steps=1)],
    )


CASES = [Case(code="LT905", sick=run(3), healthy=run(None), where="net.3.weight", severity="error", ranks=2)]
