"""What a batch's forward pass leaves behind, kept aside so that the batch can be undone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric, MetricCollection

__all__ = ["BatchSnapshot", "BufferSnapshot", "MetricSnapshot"]


class BatchSnapshot:
    """The buffers, and if asked for the metrics, of a module at the start of a batch."""

    def __init__(self, module: nn.Module, *, metrics: bool) -> None:
        self._buffers = BufferSnapshot(module)
        self._metrics = MetricSnapshot(module) if metrics else None

    def take(self, results: Mapping[str, Any]) -> None:
        """Copy everything as it is now; ``results`` is ``trainer._results``."""
        self._buffers.take()
        if self._metrics is not None:
            self._metrics.take(results)

    def restore(self, results: Mapping[str, Any]) -> None:
        """Put everything back."""
        self._buffers.restore()
        if self._metrics is not None:
            self._metrics.restore(results)

    def buffers(self) -> dict[str, Tensor]:
        """The buffers as they were, by the names of ``named_buffers``."""
        return self._buffers.by_name()


class BufferSnapshot:
    """The buffers of a module at the start of a batch.

    One instance serves many batches: its copies are written anew at each :meth:`take`, by one fused copy per device and
    dtype. Price: that copy, on the buffers' own device and without a sync, and as much memory again.

    Args:
        module: whose buffers; modules added later are seen by the next instance.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> snapshot = BufferSnapshot(norm)
        >>> snapshot.take()
        >>> _ = norm(torch.full((3, 2), float("nan")))
        >>> snapshot.restore()
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._homes: list[dict[str, Tensor | None]] = [
            dict(m.named_buffers(recurse=False)) if isinstance(m, torch.jit.ScriptModule) else m._buffers
            for m in module.modules()
        ]
        self._held: list[dict[str, Tensor | None]] = []
        self._ids: list[list[int]] | None = None
        self._copies: list[tuple[list[Tensor], list[Tensor]]] = []

    def take(self) -> None:
        """Copy every buffer as it is now."""
        ids = [list(map(id, home.values())) for home in self._homes if home]
        if ids != self._ids:
            self._hold(ids)
        if self._copies:
            with torch.no_grad():
                for originals, copies in self._copies:
                    torch._foreach_copy_(copies, originals)

    def restore(self) -> None:
        """Put back which tensor is which buffer, and what they held."""
        with torch.no_grad():
            for home, held in zip(self._homes, self._held, strict=True):
                home.clear()
                home.update(held)
            for originals, copies in self._copies:
                torch._foreach_copy_(originals, copies)

    def by_name(self) -> dict[str, Tensor]:
        """The copies, by the names of ``named_buffers``."""
        copy_of = {id(o): c for originals, copies in self._copies for o, c in zip(originals, copies, strict=True)}
        return {name: copy_of[id(b)] for name, b in self._module.named_buffers() if id(b) in copy_of}

    def _hold(self, ids: list[list[int]]) -> None:
        self._ids = ids
        self._held = [dict(home) for home in self._homes]
        buffers = {id(b): b for held in self._held for b in held.values() if b is not None and _is_writable(b)}
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for buffer in buffers.values():
            alike.setdefault((type(buffer), buffer.device, buffer.dtype, buffer.layout), []).append(buffer)
        self._copies = [(originals, [b.detach().clone() for b in originals]) for originals in alike.values()]


def _is_writable(buffer: Tensor) -> bool:
    """Others cannot change: a lazy one has no values yet, of an expanded one several elements are one in memory."""
    if is_lazy(buffer) or buffer.layout is not torch.strided:
        return not is_lazy(buffer)
    return all(stride or size < 2 for size, stride in zip(buffer.shape, buffer.stride(), strict=True))


class _Entry(NamedTuple):
    """One logged value as Lightning accumulates it over an epoch."""

    value: Any
    weight: Any
    unlogged: bool


_NEW = _Entry(None, None, True)

_AROUND = ("on_train_batch_start", "on_train_batch_end")
"""Hooks whose logged values are the callbacks' own, not the batch's."""


class MetricSnapshot:
    """torchmetrics states and Lightning's epoch means at the start of a batch.

    Price: a copy of every tensor state, without a device sync.

    Args:
        module: whose metrics; others cannot be logged through Lightning.
    """

    def __init__(self, module: nn.Module) -> None:
        self._metrics = [m for m in module.modules() if isinstance(m, Metric | MetricCollection)]
        self._states: list[tuple[nn.Module, dict[str, Any]]] = []
        self._entries: dict[str, _Entry] = {}

    def take(self, results: Mapping[str, Any]) -> None:
        """Copy every state as it is now.

        Args:
            results: Lightning's collection of logged values, ``trainer._results``.
        """
        memo: dict[int, tuple[Any, Any]] = {}
        self._states = [(metric, _state(metric, memo)) for metric in self._metrics]
        # Lightning replaces these tensors at every update, it never writes to them.
        self._entries = {
            key: _Entry(entry.value, getattr(entry, "cumulated_batch_size", None), entry.has_reset)
            for key, entry in results.items()
        }

    def restore(self, results: Mapping[str, Any]) -> None:
        """Put every state back; a key that was logged for the first time starts anew with the next batch.

        The value of the step itself (``train_loss_step``) stays in the log as what it was.
        """
        for metric, state in self._states:
            metric.__dict__.clear()
            metric.__dict__.update(state)
        for key, entry in results.items():
            if entry.meta.fx.startswith(_AROUND):
                continue
            before = self._entries.get(key, _NEW)
            if entry.is_tensor:
                _restore_value(entry, before)
            entry._computed = None
            entry.has_reset = before.unlogged and not (entry.is_tensor and entry.meta.on_step)


def _state(metric: nn.Module, memo: dict[int, tuple[Any, Any]]) -> dict[str, Any]:
    """All attributes of a metric; those that an update writes in place as copies, shared ones still shared."""
    state = dict(metric.__dict__)
    if isinstance(metric, MetricCollection):
        state["_groups"] = {key: list(members) for key, members in state["_groups"].items()}
    elif isinstance(metric, Metric):
        for name in metric._defaults:
            state[name] = _copy(state[name], memo)
    return state


def _copy(value: Any, memo: dict[int, tuple[Any, Any]]) -> Any:
    if id(value) not in memo:
        # Tensors in a list are appended, not written: the list alone is copied.
        copy = value.detach().clone() if isinstance(value, Tensor) else list(value)
        memo[id(value)] = value, copy  # with the original, lest its id be given to another
    return memo[id(value)][1]


def _restore_value(entry: Any, before: _Entry) -> None:
    if not entry.meta.on_epoch:
        return  # nothing accumulates
    for name, value in (("value", before.value), ("cumulated_batch_size", before.weight)):
        if name in entry._defaults:
            setattr(entry, name, entry._defaults[name].to(entry.value.device, copy=True) if value is None else value)
