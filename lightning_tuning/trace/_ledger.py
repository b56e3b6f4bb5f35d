"""Which tensor holds which value at this moment, without keeping any tensor alive."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.trace._op import Op, Value, ValueKind, make

__all__ = ["Ledger", "Slot", "tensors_in"]


def tensors_in(*items: Any) -> list[Tensor]:
    """The tensors in arguments or results: lists, tuples and dicts of any depth."""
    found: list[Tensor] = []
    _collect(items, found)
    return found


_DULL = frozenset({type(None), bool, int, float, str, slice, torch.dtype, torch.device})
"""Types of most arguments that are none; to ask a number whether it is a tensor takes as long as everything else."""


def _collect(items: Iterable[Any], found: list[Tensor]) -> None:
    for item in items:
        if type(item) in _DULL:
            continue
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            _collect(item, found)
        elif isinstance(item, dict):
            _collect(item.values(), found)


class Slot(weakref.ref[Tensor]):
    """What is known of one live tensor; a reference to it that does not keep it alive.

    Attributes:
        key: under which the ledger holds it.
        value: index of the value it holds, ``None`` until it is first read.
        origin: kind and name, for what was there before the step.
        seen: how many of the step's writes its value takes into account.
        version: autograd's count of writes, to notice those that nobody recorded.
        pending: the call of a custom autograd function that made it, not yet recorded; see ``Recorder``.
    """

    __slots__ = ("key", "origin", "pending", "seen", "value", "version")

    key: int
    origin: tuple[ValueKind, str | None] | None
    value: int | None
    seen: int
    version: int | None
    pending: Any


@dataclasses.dataclass(frozen=True, slots=True)
class _Write:
    """An operation wrote into bytes ``first`` up to ``last`` of a storage; ``number`` counts the writes of the step."""

    number: int
    op: int
    first: int
    last: int


class Ledger:
    """Values by tensor, with in-place writes and shared memory followed.

    A write gives the written tensor a new value. A tensor that shares the written memory gets its new value when it is
    next read, as one more input and output of the operation that wrote. Sharing is decided by byte ranges: interleaved
    views count as sharing.

    A plain dict of ``id`` with weak references is 15 times quicker than ``WeakTensorKeyDictionary``. An entry goes when
    its tensor dies, and is believed only while its reference points at the very tensor asked for.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self._slots: dict[int, Slot] = {}
        slots = self._slots

        def forget(slot: Any) -> None:  # no method: a tensor that outlives the ledger need not keep it
            key: int = slot.key
            if slots.get(key) is slot:
                del slots[key]

        self._forget = forget
        self._writes: dict[int, list[_Write]] = {}
        self._written = 0

    def slot(self, tensor: Tensor) -> Slot | None:
        """What is known of ``tensor``, if anything."""
        slot = self._slots.get(id(tensor))
        return slot if slot is not None and slot() is tensor else None

    def enter(self, tensor: Tensor, origin: tuple[ValueKind, str | None] | None = None) -> Slot:
        """Begin to follow ``tensor``; what memory it has been written to before now does not matter to it."""
        slot = Slot(tensor, self._forget)
        slot.key, slot.origin = id(tensor), origin
        slot.value = slot.pending = None
        self.settle(slot, tensor)
        self._slots[slot.key] = slot
        return slot

    def settle(self, slot: Slot, tensor: Tensor) -> None:
        """The value of ``slot`` is what ``tensor`` holds now, all writes included."""
        slot.seen = self._written
        slot.version = _version(tensor)

    def new_value(
        self,
        tensor: Any,
        kind: ValueKind,
        name: str | None = None,
        producer: int | None = None,
        follows: bool | None = None,
    ) -> int:
        """A value with the looks of ``tensor`` (or of autograd's metadata of one)."""
        index = len(self.values)
        requires_grad = bool(tensor.requires_grad) if follows is None else follows
        self.values.append(
            make(
                Value,
                index=index,
                kind=kind,
                name=name,
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                device=tensor.device,
                requires_grad=requires_grad,
                producer=producer,
            )
        )
        return index

    def bring_up_to_date(self, slot: Slot, value: int, tensor: Tensor) -> int:
        """``value`` of ``tensor``, or a newer one that depends on the writes to its memory through other tensors."""
        if slot.seen == self._written:
            return value
        storage = _storage(tensor)
        writes = () if storage is None else self._writes.get(storage, ())
        seen = slot.seen
        slot.seen = self._written
        if not writes or writes[-1].number < seen:
            return value
        first, last = _extent(tensor)
        for write in writes:
            if write.number >= seen and write.first < last and first < write.last:
                op, old = self.ops[write.op], value
                value = self.new_value(tensor, *self._origin_after(slot, old), write.op)
                inputs = (*op.inputs, old)
                self.ops[write.op] = dataclasses.replace(
                    op, inputs=inputs, outputs=(*op.outputs, value), parameters=self.parameters(inputs)
                )
        self.settle(slot, tensor)
        return value

    def assign(
        self, tensor: Tensor, op: int, *, writes: bool = False, metadata: bool = False, follows: bool | None = None
    ) -> int:
        """A new value for ``tensor``, made by ``op``.

        Args:
            tensor: what was made or written.
            op: index of the operation.
            writes: it was there before; other tensors on its memory are told.
            metadata: only its shape or history was written, so no byte changed.
            follows: whether autograd follows it, in place of the tensor's own flag.
        """
        slot = self.slot(tensor) or self.enter(tensor)
        slot.value = self.new_value(tensor, *self._origin_after(slot, slot.value), op, follows)
        slot.pending = None
        storage = _storage(tensor) if writes else None
        if storage is not None:
            extent = (0, 0) if metadata else _extent(tensor)
            self._writes.setdefault(storage, []).append(_Write(self._written, op, *extent))
            self._written += 1
        self.settle(slot, tensor)
        return slot.value

    def is_named(self, tensor: Tensor) -> bool:
        """It is a parameter or a buffer."""
        slot = self.slot(tensor)
        return slot is not None and self._origin_after(slot, slot.value)[0] != "intermediate"

    def switch_requires_grad(self, tensor: Tensor) -> None:
        """The flag of ``tensor`` was changed; its value tells the new one."""
        slot = self.slot(tensor)
        if slot is not None and slot.value is not None:
            self.values[slot.value] = dataclasses.replace(self.values[slot.value], requires_grad=tensor.requires_grad)

    def _origin_after(self, slot: Slot, value: int | None) -> tuple[ValueKind, str | None]:
        """Kind and name after a write: parameters and buffers keep theirs whatever is written into them."""
        kind, name = slot.origin or ("constant", None)
        if value is not None:
            kind, name = self.values[value].kind, self.values[value].name
        return (kind, name) if kind in ("parameter", "buffer") else ("intermediate", None)

    def add_output(self, op: int, looks: Any) -> int:
        """One more output of ``op``, a value that autograd followed; ``looks`` is autograd's metadata of it."""
        value = self.new_value(looks, "intermediate", producer=op, follows=True)
        self.ops[op] = dataclasses.replace(self.ops[op], outputs=(*self.ops[op].outputs, value))
        return value

    def parameters(self, inputs: tuple[int, ...]) -> tuple[str, ...]:
        """Dotted names of the parameters among ``inputs``, each once."""
        names: list[str] = []
        for index in inputs:
            value = self.values[index]
            if value.kind == "parameter" and value.name is not None and value.name not in names:
                names.append(value.name)
        return tuple(names)


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other storage-less tensors
        return None


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except (NotImplementedError, RuntimeError):  # inference tensors keep no count
        return None


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First byte and one past the last byte that ``tensor`` touches in its storage."""
    if tensor.numel() == 0:
        return 0, 0
    start = int(tensor.storage_offset())
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start * tensor.element_size(), (start + reach + 1) * tensor.element_size()
