"""Some samples of the training data, read aside: no generator moves, and the run's own loader is not touched."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from lightning_tuning.trace import RngState
from lightning_tuning.trace._restore import Restorer

__all__ = ["batches_aside", "keep_generators"]

_DEPTH = 4
"""Of data sets and transforms within each other, in which generators are looked for."""


def batches_aside(
    trainer: Trainer, pl_module: LightningModule, count: int, seed: int
) -> Generator[Any, None, None] | None:
    """Up to ``count`` batches of samples drawn evenly from the training data, collated as its loader does.

    They stay on the host. What the samples and their transforms draw from global generators, and from those that the
    data set holds, is put back at the end of the iteration (or when it is closed); a data set that counts its calls
    has counted these.

    Args:
        trainer: of the run, its loaders set up.
        pl_module: whose hooks on batches are looked at.
        count: batches.
        seed: decides which samples.

    Returns:
        ``None`` where samples cannot be had by index, or are not what the step is given: streams, several loaders,
        samplers that choose (weights, subsets), collate functions with a memory (a closure, an object), and modules or
        datamodules with batch transfer hooks of their own.
    """
    loader = getattr(trainer, "train_dataloader", None)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if not isinstance(loader.sampler, SequentialSampler | RandomSampler | DistributedSampler):
        return None
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return None
    if not isinstance(loader.collate_fn, FunctionType) or loader.collate_fn.__closure__ is not None:
        return None
    hooks = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")
    owners = (pl_module, getattr(trainer, "datamodule", None))
    if any(owner is not None and is_overridden(hook, owner) for owner in owners for hook in hooks):
        return None
    return _read(loader, count, seed)


def _read(loader: DataLoader[Any], count: int, seed: int) -> Generator[Any, None, None]:
    dataset: Any = loader.dataset
    size = loader.batch_size
    number = min(len(dataset), count * (size or 1))
    indices = random.Random(seed).sample(range(len(dataset)), number)  # noqa: S311  # not a secret
    rng, restorer = RngState.capture(), Restorer()
    keep_generators(dataset, restorer)
    try:
        if size is None:  # the data set gives whole batches
            for index in indices:
                yield loader.collate_fn(dataset[index])
        else:
            for start in range(0, number, size):
                yield loader.collate_fn(_samples(dataset, indices[start : start + size]))
    finally:
        restorer.restore()
        rng.restore()


def _samples(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """As torch's own fetcher asks for them."""
    together = getattr(dataset, "__getitems__", None)
    return list(together(list(indices))) if together else [dataset[index] for index in indices]


def keep_generators(owner: Any, restorer: Restorer, depth: int = _DEPTH) -> None:
    """Have ``restorer`` put back the random number generators that a data set and its transforms hold themselves."""
    if isinstance(owner, torch.Generator | random.Random) or type(owner).__module__.startswith("numpy.random"):
        restorer.value(owner)
    if depth == 0 or isinstance(owner, Tensor | str | bytes | int | float) or owner is None:
        return
    parts: Any = ()
    if isinstance(owner, list | tuple) and len(owner) < 100:
        parts = owner
    elif isinstance(owner, Mapping) and len(owner) < 100:
        parts = owner.values()
    elif hasattr(owner, "__dict__"):
        parts = vars(owner).values()
    for part in list(parts):
        keep_generators(part, restorer, depth - 1)
