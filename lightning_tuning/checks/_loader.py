"""How the training data come, as the loader's own parts tell it; nothing is drawn from it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

__all__ = ["gives_items_by_index", "gives_items_in_order", "overfits_on_purpose"]


def overfits_on_purpose(trainer: Trainer) -> bool:
    """``overfit_batches`` was set."""
    return bool(getattr(trainer, "overfit_batches", 0))


def gives_items_by_index(trainer: Trainer) -> bool:
    """Batches of several items come from one loader of a map-style dataset, more than one in an epoch."""
    loader = _single_loader(trainer)
    batches = trainer.num_training_batches if loader is not None else 0
    return loader is not None and (loader.batch_size or 0) > 1 and batches > 1


def gives_items_in_order(trainer: Trainer) -> bool:
    """Likewise, in the order of the dataset, because nobody asked for another one; a sampler of one's own has."""
    loader = _single_loader(trainer)
    if loader is None or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler: Any = loader.batch_sampler.sampler
    return type(sampler) is SequentialSampler or (type(sampler) is DistributedSampler and not sampler.shuffle)


def _single_loader(trainer: Trainer) -> DataLoader[Any] | None:
    loader = getattr(trainer, "train_dataloader", None)
    is_map_style = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return loader if is_map_style else None
