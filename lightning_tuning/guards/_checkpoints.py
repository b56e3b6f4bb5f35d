"""No checkpoint of weights that are not finite is written, and none drives a good one away (LT903)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor

from lightning_tuning.findings import TuningError
from lightning_tuning.functional.soundness import Held, broken, local
from lightning_tuning.guards._incident import Response
from lightning_tuning.guards._ranks import exchange
from lightning_tuning.guards._soundness import moments, weights
from lightning_tuning.rules.non_finite_checkpoint import non_finite_checkpoint
from lightning_tuning.runtime import Desk

__all__ = ["CheckpointGate", "Mend"]

Mend = Callable[[Trainer, LightningModule, tuple[str, ...]], bool]

_BOOKS = (
    "best_k_models",
    "best_model_path",
    "best_model_score",
    "current_score",
    "kth_best_model_path",
    "kth_value",
    "last_model_path",
)
"""What ModelCheckpoint writes down before it saves; the rest of its books it changes after."""

_SAVES_IN = ("on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_end")
"""Hooks in which ModelCheckpoint saves, the last one of a run at the end."""


class CheckpointGate(Response):
    """Stands before ``strategy.save_checkpoint``, through which every checkpoint of a trainer goes.

    A checkpoint is refused if a weight, a buffer or an optimizer's moment in it is broken: see
    :class:`~lightning_tuning.functional.soundness.Held`. Refusing raises LT903 before anything is written or removed,
    with the books of every ModelCheckpoint as after its last good save. Where the run is ending already, by an
    exception or by a guard that stops it, nothing is raised on top: what would save rests, and the journal has a note.

    The gate stays after the run, for ``trainer.save_checkpoint`` by hand; the next fit gets another.

    Price: for each checkpoint a pass over what it holds and one host read per device; with several ranks an exchange.

    Args:
        mend: asked before a checkpoint is refused, with the names of what is broken; true if that may be whole again.
            Called on every rank alike. Default: nobody can.
    """

    def __init__(self, mend: Mend | None = None) -> None:
        self._mend = mend
        self._trainer: Trainer | None = None
        self._module: LightningModule | None = None
        self._whole: frozenset[str] = frozenset()
        self._books: list[tuple[ModelCheckpoint, dict[str, Any]]] = []
        self._resting: list[Checkpoint] = []
        self._is_closed = False

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn what is whole now, and stand before the strategy."""
        self._trainer, self._module = trainer, pl_module
        held = weights(pl_module)
        sick = {name for names in exchange(broken(held.items())) for name in names}
        self._whole = frozenset(held) - sick
        self._write_down(trainer)
        vars(trainer.strategy)["save_checkpoint"] = functools.partial(self._save, trainer.strategy)

    def close(self, trainer: Trainer) -> None:
        """The run ends in good order, with broken weights: let its ModelCheckpoints rest until it is over."""
        self._is_closed = True
        self._rest([c for c in _checkpoints(trainer) if isinstance(c, ModelCheckpoint)], _SAVES_IN)

    def end(self, trainer: Trainer) -> None:
        """If the run broke off with broken weights, let those rest who save in an exception."""
        if not trainer.interrupted or self._module is None:
            return
        self._wake()
        savers = [
            callback
            for callback in _checkpoints(trainer)
            if isinstance(callback, OnExceptionCheckpoint) or getattr(callback, "save_on_exception", False)
        ]
        with contextlib.suppress(RuntimeError):  # of a device that is no longer there: then nobody can save either
            if savers and (names := self._judge(trainer, self._module, {"optimizer_states": []})):
                self._note(trainer, names, "")
                self._rest(savers, ("on_exception",))

    def __getstate__(self) -> dict[str, Any]:
        return CheckpointGate(self._mend).__dict__  # the rest is of this process; without it everything passes

    def _save(
        self, strategy: Strategy, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        trainer, module = self._trainer, self._module
        if trainer is not None and module is not None and strategy.lightning_module is module:
            names = self._judge(trainer, module, checkpoint)
            if names and self._is_mended(trainer, module, names):
                is_lean = "optimizer_states" not in checkpoint
                checkpoint.update(trainer._checkpoint_connector.dump_checkpoint(is_lean))
                names = self._judge(trainer, module, checkpoint)
            if names:
                self._refuse(trainer, names, str(filepath))
                return
            self._write_down(trainer)
        type(strategy).save_checkpoint(strategy, checkpoint, filepath, storage_options=storage_options)

    def _is_mended(self, trainer: Trainer, module: LightningModule, names: tuple[str, ...]) -> bool:
        if self._mend is None or trainer.state.stage is None or trainer.interrupted:
            return False
        try:
            return self._mend(trainer, module, names)
        except TuningError:
            self._put_books_back()
            raise

    def _judge(self, trainer: Trainer, module: LightningModule, checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of what is broken, the same on every rank."""
        live = weights(module)
        held = {name: one for name, one in live.items() if one.kind == "trained" or name in self._whole}
        is_sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy)
        if not is_sharded:  # else one rank has all that is saved, or each has pieces of a kind of their own
            for part in ("state_dict", "current_model_state"):  # averaged weights, say, are not those in use
                for name, tensor in (checkpoint.get(part) or {}).items():
                    if name in held and isinstance(tensor, Tensor) and not _is_same(tensor, live[name].tensor):
                        held[f"{name} ({part})"] = Held(tensor, live[name].kind)
        kept = moments(module, trainer.optimizers) if "optimizer_states" in checkpoint else ()
        found = broken([*held.items(), *kept])
        if trainer.interrupted and not is_sharded:
            return found  # other ranks may be gone, and where each of them has everything they say the same
        return tuple(dict.fromkeys(name for names in exchange(found) for name in names))

    def _refuse(self, trainer: Trainer, names: tuple[str, ...], path: str) -> None:
        self._put_books_back()
        if trainer.state.stage is not None and (trainer.interrupted or self._is_closed):
            self._note(trainer, names, path)
            return
        finding = non_finite_checkpoint(names, path=path, kept=self._last_good(), step=trainer.global_step)
        Desk.of(trainer).journal.fail(finding, step=trainer.global_step, epoch=trainer.current_epoch)

    def _note(self, trainer: Trainer, names: tuple[str, ...], path: str) -> None:
        finding = non_finite_checkpoint(names, path=path, kept=self._last_good())
        Desk.of(trainer).journal.note(f"NanLossGuard, {finding.code}: {finding.message}")

    def _write_down(self, trainer: Trainer) -> None:
        self._books = [
            (checkpoint, _copied({name: value for name, value in vars(checkpoint).items() if name in _BOOKS}))
            for checkpoint in _checkpoints(trainer)
            if isinstance(checkpoint, ModelCheckpoint)
        ]

    def _put_books_back(self) -> None:
        for checkpoint, books in self._books:
            vars(checkpoint).update(_copied(books))

    def _last_good(self) -> str:
        """Where the last checkpoint is that was let through; of a resumed run the best one that it knows."""
        saved = [getattr(checkpoint, "_last_checkpoint_saved", "") for checkpoint, _ in self._books]
        known = [str(books.get("best_model_path") or "") for _, books in self._books]
        return next(filter(None, [*saved, *known]), "")

    def _rest(self, callbacks: list[Any], hooks: tuple[str, ...]) -> None:
        self._resting = callbacks
        for callback in callbacks:
            vars(callback).update(dict.fromkeys(hooks, _nothing))
            vars(callback)[hooks[-1]] = functools.partial(_wake, callback)

    def _wake(self) -> None:
        for callback in self._resting:
            _wake(callback)


def _checkpoints(trainer: Trainer) -> list[Checkpoint]:
    return list(trainer.checkpoint_callbacks)


def _is_same(tensor: Tensor, used: Tensor) -> bool:
    one, other = local(tensor), local(used)
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _copied(books: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, dict) else value for name, value in books.items()}


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a hook."""


def _wake(callback: Any, *_: Any, **__: Any) -> None:
    """Give ``callback`` its hooks back; in place of the last of them."""
    for hook in (*_SAVES_IN, "on_exception"):
        if getattr(vars(callback).get(hook), "func", vars(callback).get(hook)) in (_nothing, _wake):
            del vars(callback)[hook]
