"""Where an export may go, and of which runs there is one."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

__all__ = ["check_path", "check_prefix", "refuse_checkpoints", "refuse_shards", "without_ending"]


def check_path(path: Any, when: str) -> bool:
    """Whether the export's name comes from the checkpoint's.

    Raises:
        ValueError: for what is no path of a local file, or has fields that nothing fills.
    """
    if path is None:
        return when == "checkpoint"
    if not isinstance(path, str) or not path or path.endswith(("/", os.sep, ".ckpt")) or "://" in path:
        raise ValueError(f"`path` must be that of a local file with another ending than .ckpt, or None, got {path!r}.")
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(path) if field is not None}
    except ValueError as error:
        raise ValueError(f"`path` must have no braces but those of its fields, got {path!r}.") from error
    if fields - {"checkpoint", "name"}:
        raise ValueError(f"`path` must have no fields but {{checkpoint}} and {{name}}, got {path!r}.")
    if fields and when == "end":
        raise ValueError(f"`path` must have no fields with when='end', where there is no checkpoint, got {path!r}.")
    return bool(fields)


def check_prefix(prefix: Any) -> None:
    """Refuse what is not the beginning of a name.

    Raises:
        ValueError: saying so.
    """
    if prefix is not None and not (isinstance(prefix, str) and prefix.strip(".")):
        raise ValueError(f"`prefix_strip` must be the beginning of names or None, got {prefix!r}.")


def refuse_shards(trainer: Trainer) -> None:
    """Refuse a strategy that never has the weights in one place.

    Raises:
        MisconfigurationException: saying what to do instead.
    """
    strategy, instead = trainer.strategy, None
    if isinstance(strategy, DeepSpeedStrategy):
        instead = "convert its checkpoint (`zero_to_fp32.py` in its folder)"
    elif isinstance(strategy, FSDPStrategy) and strategy._state_dict_type == "sharded":
        instead = "give it `state_dict_type='full'`"
    elif isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint:
        instead = "give it `save_distributed_checkpoint=False`"
    if instead is not None:
        raise MisconfigurationException(
            f"ExportState: {type(strategy).__name__} saves the weights in shards, and nobody has them whole; {instead},"
            " or drop ExportState."
        )


def refuse_checkpoints(trainer: Trainer, target: Path, *, is_whole: bool) -> None:
    """Refuse a ModelCheckpoint that gives not enough, or would have its own file replaced.

    Args:
        trainer: whose callbacks are looked at.
        target: where the export of a checkpoint ``run`` would go.
        is_whole: the optimizer's state is wanted too.

    Raises:
        MisconfigurationException: saying what to do instead.
    """
    for checkpoint in trainer.checkpoint_callbacks:
        if not isinstance(checkpoint, ModelCheckpoint):
            continue
        if target == Path(f"run{checkpoint.FILE_EXTENSION}"):
            raise MisconfigurationException(
                f"ExportState: {target.suffix!r} is the ending of ModelCheckpoint's files, which would be replaced. "
                "Give `path=` another one."
            )
        if is_whole and checkpoint.save_weights_only:
            raise MisconfigurationException(
                "ExportState(contents='training'): ModelCheckpoint(save_weights_only=True) saves no optimizer. Use "
                "`contents='model'`, or a ModelCheckpoint that saves all."
            )


def without_ending(path: Path) -> Path:
    """The path of a checkpoint without ``.ckpt``."""
    return path.parent / path.name.removesuffix(ModelCheckpoint.FILE_EXTENSION)
