"""Of which items of the dataset the running batch was made, where the loader draws them by index."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_unflatten
from torch.utils.data import DataLoader, IterableDataset, default_collate

from lightning_tuning.guards._recorder import Opener, Recorder
from lightning_tuning.trace import Origin
from lightning_tuning.trace.batch import batch_tensors

__all__ = ["Culprits", "Draw", "SampleIndices", "indices_of"]

Wrap = Callable[[str, "DataLoader[Any]", Any], Any]
"""What stands between a loader's sampler and its batches: (name, loader, sampler) -> sampler."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a batch, or its part from one of several loaders, was made of.

    Attributes:
        name: of the part: ``"batch"``, or ``"batch['a']"`` where loaders are combined.
        loader: it came from.
        indices: of the dataset, in the order in which they were drawn.
        single: one index made the whole part: the loader has ``batch_size=None``.
    """

    name: str
    loader: DataLoader[Any]
    indices: tuple[int, ...]
    single: bool


@dataclasses.dataclass(frozen=True)
class Culprits:
    """The dataset indices behind the bad samples of a batch.

    Attributes:
        origin: what is bad of the batch.
        draw: what the batch was made of.
        indices: of the bad samples, in the order of ``origin.samples``; of the whole batch if its samples are not one
            for each index (a ``collate_fn`` that joins or drops some).
        doubt: why they may not be just those of the bad samples; empty if they are.
    """

    origin: Origin
    draw: Draw
    indices: tuple[int, ...]
    doubt: str


class SampleIndices:
    """Watches what the samplers of the training loaders draw; changes nothing and draws nothing itself.

    A loader's iterator is given a recorder in the place of the batch sampler (with ``batch_size=None``: the sampler);
    the loader's own attributes stay. Lightning makes its last changes to the loaders (distributed samplers) before
    ``Strategy.process_dataloader`` and draws from them right after it, before ``on_train_start`` already, so that this
    is where the recorders come in. Costs .4 us per batch of 32 (2 us of 1024), and the last few batches' indices.

    Unknown, and told as such, are the indices of an ``IterableDataset``, of a loader with ``in_order=False`` or with an
    iteration of its own, of what is no DataLoader, and of a ``training_step`` that takes ``dataloader_iter``.

    Args:
        wrap: see :data:`Wrap`. Default ``None``: nothing.
    """

    def __init__(self, wrap: Wrap | None = None) -> None:
        self.wrap = wrap
        self.culprits: Culprits | None = None
        self._trainer: Trainer | None = None
        self._loaders: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()

    def begin(self, trainer: Trainer) -> None:
        """To be called before the training loaders are set up, as in ``on_fit_start``."""
        self.end()
        self._trainer = trainer
        strategy = vars(trainer.strategy)
        self._process, self._shadowed = trainer.strategy.process_dataloader, strategy.get("process_dataloader")
        strategy["process_dataloader"] = self._process_dataloader

    def end(self) -> None:
        """Leave no trace in strategy and loaders; may be called twice, or without a beginning."""
        trainer, self._trainer, self.culprits = self._trainer, None, None
        for loader in list(self._loaders):
            Opener.leave(loader, self)
        self._loaders.clear()
        if trainer is None:
            return
        top = vars(trainer.strategy).pop("process_dataloader", None)
        while isinstance(other := getattr(top, "__self__", None), SampleIndices) and other._trainer is None:
            top = other._shadowed  # of those that ended before, in any order
        if top is not None:
            vars(trainer.strategy)["process_dataloader"] = top

    def draws(self) -> dict[str, Draw | None]:
        """What each part of the running batch was made of, as far as that is known, by its name."""
        trainer = self._trainer
        combined = None if trainer is None else trainer.fit_loop._combined_loader
        if trainer is None or combined is None:
            return {}
        parts = _names(tree_unflatten(range(len(combined.flattened)), combined._spec))
        return {name: _draw(trainer, name, position) for name, position in parts}

    def traceable(self) -> dict[str, bool]:
        """By the same names, whether indices can be told of this part at all; to be asked once loaders are set up."""
        if self._trainer is None or self._trainer.fit_loop._combined_loader is None:
            return {}
        combined = self._trainer.fit_loop._combined_loader
        parts = _names(tree_unflatten(range(len(combined.flattened)), combined._spec))
        return {name: _running(self._trainer, position) is not None for name, position in parts}

    def blame(self, pl_module: LightningModule, batch: Any, origin: Origin | None) -> Culprits | None:
        """The dataset indices behind ``origin``, if that is a bad sample of ``batch``; remembered in ``culprits``."""
        self.culprits = None
        if self._trainer is None or origin is None or origin.cause != "bad-sample" or not origin.samples:
            return None
        path = origin.names[0]
        parts = (name for name in self.draws() if path == name or path.startswith((f"{name}[", f"{name}.")))
        draw = self.draws().get(max(parts, key=len, default=""))
        if draw is None:
            return None
        tensor = next((tensor for name, tensor in batch_tensors(batch) if name == path), None)
        rows = len(tensor) if tensor is not None and tensor.ndim else None
        if draw.single:
            indices, doubt = draw.indices, ""
        elif rows == len(draw.indices):
            indices, doubt = tuple(draw.indices[i] for i in origin.samples), _doubt(self._trainer, pl_module, draw)
        else:
            indices, doubt = draw.indices, "not told apart"
        self.culprits = Culprits(origin, draw, indices, doubt)
        return self.culprits

    def sampler(self, loader: DataLoader[Any], sampler: Any) -> Any:
        """What an iterator of ``loader`` is to draw from instead of ``sampler``."""
        if self._trainer is not None and self.wrap is not None:
            combined = self._trainer.fit_loop._combined_loader
            flat = [] if combined is None else combined.flattened
            position = next((i for i, other in enumerate(flat) if other is loader), None)
            if combined is not None and position is not None:
                names = {i: name for name, i in _names(tree_unflatten(range(len(flat)), combined._spec))}
                sampler = self.wrap(names[position], loader, sampler)
        # What the workers and Lightning may have drawn ahead, and the batch under way.
        return Recorder(sampler, depth=loader.num_workers * (loader.prefetch_factor or 0) + 3)

    def _process_dataloader(self, dataloader: object) -> object:
        dataloader = self._process(dataloader)
        training = self._trainer is not None and self._trainer.state.stage == RunningStage.TRAINING
        if training and isinstance(dataloader, DataLoader) and not isinstance(dataloader.dataset, IterableDataset):
            Opener.enter(dataloader, self)
            self._loaders.add(dataloader)
        return dataloader

    def __getstate__(self) -> dict[str, Any]:
        return {"wrap": self.wrap, "culprits": None, "_trainer": None}  # the rest is of this process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _loaders=weakref.WeakSet())


def indices_of(draw: Any) -> tuple[int, ...] | None:
    """The indices in what a sampler gave: one, or a list, tuple, array or tensor of them; ``None`` if it is not that.

    Example:
        >>> indices_of([3, 1]), indices_of(7), indices_of(["a.png"])
        ((3, 1), (7,), None)
    """
    plain = draw.tolist() if isinstance(draw, Tensor) or hasattr(draw, "__array__") else draw
    items = plain if isinstance(plain, list | tuple) else (plain,)
    try:
        return tuple(map(operator.index, items))
    except TypeError:
        return None


def _names(tree: Any, path: str = "batch") -> Iterator[tuple[str, int]]:
    """Names of a batch's parts as :func:`batch_tensors` would give them, with the positions of their loaders."""
    if isinstance(tree, int):
        yield path, tree
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _names(item, f"{path}[{key!r}]")
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        for key in tree._fields:
            yield from _names(getattr(tree, key), f"{path}.{key}")
    elif isinstance(tree, list | tuple):
        for index, item in enumerate(tree):
            yield from _names(item, f"{path}[{index}]")


def _running(trainer: Trainer, position: int) -> tuple[Any, Recorder] | None:
    """The iterator of a loader, with its recorder, if batches come in the order in which they were drawn."""
    with contextlib.suppress(AttributeError, IndexError):  # all private, of torch and Lightning: unknown if it changed
        fetcher: Any = trainer.fit_loop._data_fetcher
        iterator = fetcher.combined_loader._iterator.iterators[position]
        recorder = iterator._index_sampler
        # `batches` (Lightning's one batch ahead of loaders without a length) is not had by the fetcher of
        # `dataloader_iter`; of several loaders some are drawn from in vain at an end that is so found.
        ahead = fetcher.length is None and len(fetcher.combined_loader.flattened) > 1
        ordered = iterator._num_workers == 0 or iterator._in_order
        if isinstance(recorder, Recorder) and isinstance(fetcher.batches, list) and ordered and not ahead:
            return iterator, recorder
    return None


def _draw(trainer: Trainer, name: str, position: int) -> Draw | None:
    running = _running(trainer, position)
    fetcher: Any = trainer.fit_loop._data_fetcher
    if running is None:
        return None
    iterator, recorder = running
    # Counted from the last one drawn: a resumable loader may have passed over any number at its start.
    ahead = len(fetcher.batches) + (iterator._send_idx - iterator._rcvd_idx if iterator._num_workers else 0)
    if ahead >= len(recorder.drawn):
        return None
    drawn, indices = recorder.drawn[-1 - ahead], indices_of(recorder.drawn[-1 - ahead])
    if indices is None:
        return None
    single = isinstance(drawn, int) or getattr(drawn, "ndim", 1) == 0
    return Draw(name, fetcher.combined_loader.flattened[position], indices, single)


def _doubt(trainer: Trainer, pl_module: LightningModule, draw: Draw) -> str:
    """Who had the batch in his hands, of whom nothing is known; empty if nobody had."""
    hooks = "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"
    datamodule: Any = getattr(trainer, "datamodule", None)
    names = [] if draw.loader.collate_fn is default_collate else ["`collate_fn`"]
    for hook in hooks:
        own = datamodule is not None and is_overridden(hook, datamodule, parent=LightningDataModule)
        if own or is_overridden(hook, pl_module, parent=LightningModule):
            names.append(f"`{hook}`")
    return f"if {' and '.join(names)} keep{'s' if len(names) == 1 else ''} the order" if names else ""
