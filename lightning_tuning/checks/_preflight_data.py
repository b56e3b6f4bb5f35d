"""Trial by index and by content: are samples of the training data validated on (LT108)?"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from lightning_tuning.checks._preflight_step import Judgement
from lightning_tuning.findings import Finding, Verdict
from lightning_tuning.rules.train_val_leakage import MIN_SHARE, Overlap, train_val_leakage
from lightning_tuning.runtime.training_samples import keep_generators
from lightning_tuning.trace import RngState
from lightning_tuning.trace._restore import Restorer

__all__ = ["LEAKAGE", "leakage_trial"]

LEAKAGE = "no sample in both sets"

SAMPLES = 2_000  # looked at of each set


class Samples(NamedTuple):
    """What a loader can give: a map-style data set and the indices of it that are used."""

    dataset: Any
    indices: Sequence[int]


def leakage_trial(trainer: Trainer, *, samples: int = SAMPLES, seconds: float) -> tuple[Judgement, list[Finding]]:
    """Hold the training data against each validation loader's.

    Args:
        trainer: of the run, its loaders set up.
        samples: of each set that are looked at where content has to be compared.
        seconds: that this may take.

    Returns:
        The judgement with the first finding, and the findings of further validation loaders.
    """

    def not_applicable(reason: str) -> tuple[Judgement, list[Finding]]:
        return Judgement(Verdict(LEAKAGE, "not applicable", reason, code="LT108")), []

    if getattr(trainer, "overfit_batches", 0):
        return not_applicable("`overfit_batches` validates on training data on purpose")
    if not trainer.is_global_zero:
        return not_applicable("looked at by rank 0")
    training = [found for loader in _loaders(trainer.train_dataloader) if (found := _samples(loader)) is not None]
    validation = [_samples(loader) for loader in _loaders(trainer.val_dataloaders)]
    if not training or not any(found is not None for found in validation):
        return not_applicable("training or validation data is none, a stream, or sampled in a way of its own")
    end = time.monotonic() + seconds
    rng, restorer = RngState.capture(), Restorer()
    for dataset in {id(found.dataset): found.dataset for found in (*training, *validation) if found}.values():
        keep_generators(dataset, restorer)
    try:
        overlaps = [
            overlap
            for index, found in enumerate(validation)
            if found is not None
            for overlap in (_overlap(one, found, index, samples, end) for one in training)
        ]
    except Exception as error:  # noqa: BLE001  # whatever the user's data set raises when it is asked out of turn
        return not_applicable(f"samples could not be read ({type(error).__name__}: {error})")
    finally:
        restorer.restore()
        rng.restore()
    findings = [finding for overlap in overlaps if (finding := train_val_leakage(overlap)) is not None]
    worst = max(overlaps, key=lambda overlap: overlap.share)
    sentence = f"{worst.hits} of {worst.val_seen} validation samples looked at are among {worst.train_seen} of training"
    verdict = Verdict(LEAKAGE, "failed" if findings else "passed", sentence, worst.share, MIN_SHARE, "LT108")
    return Judgement(verdict, findings[0] if findings else None), findings[1:]


def _overlap(train: Samples, val: Samples, loader: int, samples: int, end: float) -> Overlap:
    if train.dataset is val.dataset:
        own, other = set(train.indices), set(val.indices)
        sizes = {"val_seen": len(other), "val_total": len(other), "train_seen": len(own), "train_total": len(own)}
        return Overlap(loader, len(own & other), **sizes, by_index=True)
    now = time.monotonic()
    trained = list(_digests(train, samples, now + (end - now) / 2))
    validated = set(_digests(val, samples, end))
    known = set(trained)
    return Overlap(
        loader,
        hits=len(known & validated),
        val_seen=len(validated),
        val_total=len(val.indices),
        train_seen=len(trained),
        train_total=len(train.indices),
        repeats=len(trained) - len(known),
    )


def _digests(found: Samples, samples: int, end: float) -> Iterator[bytes]:
    """Of the contents of samples, drawn without a look at the global generators."""
    indices = found.indices
    if len(indices) > samples:
        indices = sorted(random.Random(0).sample(indices, samples))  # noqa: S311  # not a secret
    for index in indices:
        if time.monotonic() > end:
            return
        digest = hashlib.blake2b(digest_size=16)
        _feed(digest, found.dataset[index])
        yield digest.digest()


def _feed(digest: Any, item: Any) -> None:
    """Put the content of a sample into ``digest``: tensors, arrays, images, numbers and text, nested."""
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        if item.is_sparse:
            item = item.coalesce().to_dense()
        digest.update(f"{tuple(item.shape)}{item.dtype}".encode())
        digest.update(item.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if item.numel() else b"")
    elif isinstance(item, Mapping):
        for key in item:
            digest.update(str(key).encode())
            _feed(digest, item[key])
    elif isinstance(item, list | tuple):
        for part in item:
            _feed(digest, part)
    elif callable(getattr(item, "tobytes", None)):  # arrays of NumPy, images of Pillow
        digest.update(f"{getattr(item, 'shape', getattr(item, 'size', ''))}".encode())
        digest.update(item.tobytes())
    elif isinstance(item, str | bytes | int | float | complex) or item is None:
        digest.update(item if isinstance(item, bytes) else repr(item).encode())
    elif hasattr(item, "__dict__"):
        _feed(digest, vars(item))
    else:
        raise TypeError(f"a sample holds a {type(item).__name__}")


def _loaders(loaders: Any) -> list[Any]:
    """The loaders in whatever nesting the user gave them."""
    if loaders is None:
        return []
    if isinstance(loaders, Mapping):
        return [one for value in loaders.values() for one in _loaders(value)]
    if isinstance(loaders, list | tuple):
        return [one for value in loaders for one in _loaders(value)]
    return [loaders]


def _samples(loader: Any) -> Samples | None:
    """What ``loader`` can give; ``None`` where that is not known."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    batches = loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        return None
    sampler: Any = loader.sampler
    dataset: Dataset[Any] = loader.dataset
    if isinstance(sampler, SubsetRandomSampler):
        return _unwrapped(dataset, [int(index) for index in sampler.indices])
    if isinstance(sampler, SequentialSampler | RandomSampler | DistributedSampler):
        return _unwrapped(dataset, range(len(dataset)))  # type: ignore[arg-type]  # map-style
    return None


def _unwrapped(dataset: Any, indices: Sequence[int]) -> Samples:
    """Of a subset of a subset the data set at the bottom, and its indices."""
    while type(dataset) is Subset:
        own = dataset.indices
        indices = [int(own[index]) for index in indices]
        dataset = dataset.dataset
    return Samples(dataset, indices)
