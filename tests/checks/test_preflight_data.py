"""LT108 on loaders: what is compared with what, and that nothing is drawn or moved by looking."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_tuning.checks._preflight_data import leakage_trial
from tests.helpers import blobs

DATA = blobs(200)


class Noisy(Dataset[Any]):
    """Draws from the global generator and from one of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> Any:
        return torch.rand(4), torch.rand(2, generator=self.generator)


class Odd(Sampler[int]):
    def __iter__(self) -> Any:
        return iter(range(10))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(DATA)


def tried(train: Any, val: Any, **trainer: Any) -> str:
    made = SimpleNamespace(train_dataloader=train, val_dataloaders=val, is_global_zero=True, overfit_batches=0.0)
    judgement, _ = leakage_trial(SimpleNamespace(**{**vars(made), **trainer}), seconds=10.0)  # type: ignore[arg-type]
    assert (judgement.finding is not None) is (judgement.verdict.outcome == "failed")
    return judgement.verdict.outcome


def loader(dataset: Any, **settings: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=10, **settings)


@pytest.mark.parametrize(
    ("train", "val", "outcome"),
    [
        (loader(DATA), loader(blobs(50, seed=1)), "passed"),
        (loader(DATA, shuffle=True), loader(DATA), "failed"),
        (loader(DATA), loader(TensorDataset(*(t[:40].clone() for t in DATA.tensors))), "failed"),
        (loader(Subset(DATA, range(150))), loader(Subset(DATA, range(150, 200))), "passed"),
        (loader(Subset(DATA, range(150))), loader(Subset(DATA, range(100, 200))), "failed"),
        (
            loader(DATA, sampler=SubsetRandomSampler(range(150))),
            loader(DATA, sampler=SubsetRandomSampler(range(150, 200))),
            "passed",
        ),
        (loader(DATA, sampler=WeightedRandomSampler([1.0] * 200, 50)), loader(DATA), "not applicable"),
        (loader(DATA, sampler=Odd()), loader(DATA), "not applicable"),
        (loader(Stream()), loader(DATA), "not applicable"),
        (loader(DATA), None, "not applicable"),
        ({"a": loader(DATA), "b": loader(blobs(9, seed=4))}, [loader(blobs(30, seed=5)), loader(DATA)], "failed"),
        (loader(TensorDataset(torch.arange(300) % 3)), loader(TensorDataset(torch.arange(60) % 3)), "passed"),
        (loader(Noisy()), loader(Noisy()), "passed"),
    ],
)
def test_loaders(train: Any, val: Any, outcome: str) -> None:
    assert tried(train, val) == outcome


def test_overfitting_validates_on_training_data_on_purpose() -> None:
    assert tried(loader(DATA), loader(DATA), overfit_batches=1) == "not applicable"


def test_looking_draws_nothing() -> None:
    noisy = Noisy()
    before, own = torch.get_rng_state(), noisy.generator.get_state()
    tried(loader(noisy), loader(DATA))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noisy.generator.get_state(), own)


def test_a_data_set_that_refuses_is_left_alone() -> None:
    class Refuses(Noisy):
        def __getitem__(self, index: int) -> Any:
            raise OSError("the disk is gone")

    assert tried(loader(Refuses()), loader(DATA)) == "not applicable"
