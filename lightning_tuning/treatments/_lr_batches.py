"""Training batches drawn beside a run, which gets its own ones as if nobody had looked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.data_connector import (
    _process_dataloader,
    _request_dataloader,
    _resolve_overfit_batches,
)
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.runtime.training_samples import keep_generators
from lightning_tuning.trace._restore import Restorer

__all__ = ["batches_aside"]


def batches_aside(trainer: Trainer, pl_module: LightningModule) -> Iterator[tuple[Any, int]]:
    """Batches on their device, with their index, epoch after epoch; to be closed, and drawn inside of ``aside``.

    A ``train_dataloader`` hook is asked for new loaders. Loaders that were given to ``fit`` get a second iterator:
    their random number generators go back to where they were, and workers that persist are left to the run.

    Raises:
        MisconfigurationException: if a batch could be drawn only by taking it away from the run.
    """
    running = trainer.fit_loop._combined_loader
    if running is None:
        return
    with ExitStack() as undone:
        restorer = Restorer()
        undone.callback(restorer.restore)
        if (datamodule := trainer.datamodule) is not None:  # type: ignore[attr-defined]  # set by a connector
            restorer.containers(vars(datamodule))
        loaders = _loaders(trainer, running)
        for loader in loaders.flattened:
            shared = any(loader is other for other in running.flattened)
            if shared and (hasattr(loader, "__next__") or hasattr(getattr(loader, "dataset", None), "__next__")):
                raise MisconfigurationException(
                    f"LRRangeTest would take batches away from the run: its {type(loader).__name__} can be read once "
                    "only. Give `fit` one that begins anew at each `iter(...)`, or a `train_dataloader` that makes one."
                )
            keep_generators(loader, restorer)
            if getattr(loader, "_iterator", None) is not None:  # workers that persist
                undone.callback(setattr, loader, "_iterator", loader._iterator)
                loader._iterator = None
        undone.callback(loaders.reset)
        while True:
            is_empty = True
            for batch, batch_idx, _ in loaders:
                is_empty = False
                moved = trainer.precision_plugin.convert_input(batch)
                moved = pl_module._on_before_batch_transfer(moved, dataloader_idx=0)
                yield trainer.strategy.batch_to_device(moved, dataloader_idx=0), batch_idx
            if is_empty:
                return


def _loaders(trainer: Trainer, running: CombinedLoader) -> CombinedLoader:
    """What Lightning would make of the loaders now, without a word: it has said it of those of the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked: Any = _request_dataloader(trainer.fit_loop._data_source)
        if isinstance(asked, CombinedLoader):
            loaders = CombinedLoader(asked.iterables, asked._mode)
        else:
            loaders = CombinedLoader(asked, "max_size_cycle")
        if trainer.overfit_batches > 0:  # type: ignore[attr-defined]  # set by a function of Lightning's
            _resolve_overfit_batches(loaders, mode=RunningStage.TRAINING)
        loaders.flattened = [
            _process_dataloader(trainer, TrainerFn.FITTING, RunningStage.TRAINING, loader)
            for loader in loaders.flattened
        ]
    loaders.limits = running.limits
    return loaders
