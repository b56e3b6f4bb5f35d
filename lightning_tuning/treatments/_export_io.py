"""Between a trainer and its files: tell somebody of every checkpoint that is written or removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import CheckpointIO

__all__ = ["Listener", "listen_to_checkpoints", "stop_listening"]


class Listener(Protocol):
    """Who is told, on the rank that writes, when the file is written or gone."""

    def checkpoint_written(self, trainer: Trainer, checkpoint: dict[str, Any], path: Path) -> None:
        """``checkpoint`` lies at ``path``."""

    def checkpoint_removed(self, trainer: Trainer, path: Path) -> None:
        """What lay at ``path`` does no more."""


class _Told(CheckpointIO):
    """Does what the plugin underneath does, and tells."""

    def __init__(self, inner: CheckpointIO, trainer: Trainer, listener: Listener) -> None:
        self.inner, self.trainer, self.listener = inner, trainer, listener

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.inner.save_checkpoint(checkpoint, path, storage_options)
        if not _is_passing(path):
            self.listener.checkpoint_written(self.trainer, checkpoint, Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        self.inner.remove_checkpoint(path)
        if not _is_passing(path):
            self.listener.checkpoint_removed(self.trainer, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.inner.load_checkpoint(path, *args, **kwargs)

    def teardown(self) -> None:
        self.inner.teardown()


def listen_to_checkpoints(trainer: Trainer, listener: Listener) -> None:
    """Have ``listener`` told from now on; once, however often it is asked for."""
    stop_listening(trainer, listener)
    strategy = trainer.strategy
    strategy.checkpoint_io = _Told(strategy.checkpoint_io, trainer, listener)


def stop_listening(trainer: Trainer, listener: Listener) -> None:
    """Give the strategy back what it had, less what others have put around it since."""
    strategy, outer = trainer.strategy, None
    io = strategy.checkpoint_io
    while isinstance(io, _Told):
        if io.listener is listener:
            if outer is None:
                strategy.checkpoint_io = io.inner
            else:
                outer.inner = io.inner
        else:
            outer = io
        io = io.inner


def _is_passing(path: Any) -> bool:
    """A hidden file: the finders of learning rate and batch size put a run by for a moment."""
    return Path(path).name.startswith(".")
