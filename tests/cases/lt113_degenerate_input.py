"""LT113: decoding failed and gave zeros; an index is ignored; a batch is cached."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from tests.cases._data import Classifier
from tests.cases.case import Case, Run


def zeros(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(torch.arange(len(x))[:, None] % 4 > 0, 0.0, x), y


def one_sample(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x[:1].expand(len(x), -1).clone(), y


class Cached(Classifier):
    """The dataset repeats its first batch."""

    def dataset(self) -> Dataset[Any]:
        return Subset(super().dataset(), list(range(self.batch_size)) * self.batches)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(), batch_size=self.batch_size)


def case(name: str, sick: Run, **also: str) -> Case:
    return Case(
        code="LT113", name=name, sick=sick, healthy=Run(Classifier), where="batch[0]", severity="warning", also=also
    )


CASES = [
    case("zeros", Run(lambda: Classifier(zeros))),
    case("one sample", Run(lambda: Classifier(one_sample))),
    case("one batch", Run(Cached)),
]
