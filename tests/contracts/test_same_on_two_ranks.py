"""Two ranks with half of each batch find what one process finds with the whole, where the mathematics is the same.

Gradients, updates and weights are: the mean over two halves is the mean over the whole. A loss is each rank's own.
"""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
from torch.utils.data import DataLoader

from lightning_tuning import Journal, TuningSuite
from tests.cases import Case, cases
from tests.helpers import quiet_trainer
from tests.ranks import gloo, on_two_ranks

CODES = ("LT602", "LT604", "LT605", "LT606", "LT608", "LT609", "LT801")
REFUSED = {"LT801 cut off"}  # by DDP itself: parameters that no loss reaches
CASES = {str(case): case for case in cases() if case.code in CODES and str(case) not in REFUSED}


def found(case: Case, *, batches: int, **settings: Any) -> list[tuple[str, str, str]]:
    """Code, place and severity of all that is found, of batches that are so many times as large."""
    pl.seed_everything(0, verbose=False)
    module = case.sick.module()
    loader = module.train_dataloader()
    size = loader.batch_size * batches
    module.train_dataloader = lambda: DataLoader(loader.dataset, batch_size=size, drop_last=True)
    epochs = 2 * case.sick.trainer.get("max_epochs", 1)  # of half as many batches
    arguments = {**case.sick.trainer, "max_epochs": epochs, "limit_val_batches": 0, **settings}
    trainer = quiet_trainer(callbacks=[TuningSuite(select=CODES), *case.sick.callbacks()], **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, **case.sick.fit)
    return sorted((f.code, f.where, str(f.severity)) for f in Journal.of(trainer).findings if f.code == case.code)


def on_one_of_two(rank: int) -> dict[str, Any]:
    return {name: found(case, batches=1, strategy=gloo(), devices=2) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return on_two_ranks(on_one_of_two)


@pytest.mark.parametrize("name", CASES)
def test_the_findings_are_the_same(name: str, ranks: list[dict[str, Any]]) -> None:
    alone = found(CASES[name], batches=2)
    assert ranks[0][name] == alone
    assert ranks[1][name] == alone
    assert alone
