"""Watches every operation of a step, forward and backward, for those that make numbers that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

from lightning_tuning.trace._call import Call, bad_rows, bad_values, finite_range, is_finite
from lightning_tuning.trace._causes import diagnose
from lightning_tuning.trace._evidence import op_name
from lightning_tuning.trace._gradients import discarded, of_gradient
from lightning_tuning.trace._modules import ModuleStack, clean_path
from lightning_tuning.trace._origin import Origin
from lightning_tuning.trace._reductions import SOFTMAX
from lightning_tuning.trace._source import Callers
from lightning_tuning.trace.batch import batch_tensors

__all__ = ["Probe", "Suspect"]

_UNWRITTEN = frozenset(
    {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize"}
)
"""Their results hold whatever was in that memory."""

_BOUNDS = frozenset({"clamp", "clamp_min", "clamp_max", "nan_to_num", "hardtanh", "threshold"})
"""Infinite numbers among their arguments are bounds, not values."""

_NO_NODE = -1
"""In place of a node's sequence number: not in the backward pass."""


class Site(NamedTuple):
    """Where an operation was called in the forward pass."""

    op: str
    module: str
    source_line: str | None


@dataclass
class Suspect:
    """A place where numbers stopped being finite; whether it mattered is not known yet.

    Attributes:
        origin: what is to be said of it.
        deliberate: an infinite constant (a mask), which is no fault unless it arrives where it should not.
        node: sequence number of the autograd node it happened in, if that was in the backward pass.
    """

    origin: Origin
    deliberate: bool = False
    node: int = _NO_NODE


class Probe(TorchDispatchMode):
    """Enter it around a forward and backward pass; then ask which suspects a tensor :meth:`descends_from`.

    Below autograd, where this mode sits, every operation is seen as it runs: the innards of composites, of custom
    functions and of the backward pass too. A tensor that is not finite carries the marks of the suspects it descends
    from; an operation whose result is finite again (a softmax over a mask) ends them. Forward operations are found
    again in the backward pass by the sequence number that autograd gave their node.

    Keeps the memory of tensors that are not finite alive until it is dropped; waits for the device at each operation.

    Args:
        pl_module: its parameters and buffers are suspects if they are not finite, and so are the tensors of the batch.
        batch: as the step will get it.

    Attributes:
        suspects: in the order of their appearance.
    """

    def __init__(self, pl_module: LightningModule, batch: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.suspects: list[Suspect] = []
        self._module, self._batch = pl_module, batch
        self._marks: dict[int, tuple[torch.UntypedStorage, set[int]]] = {}
        self._sites: dict[int, Site] = {}
        self._made_in: dict[int, int] = {}  # memory -> node that wrote it last, during the backward pass
        self._callers = Callers()
        self._stack = ModuleStack(pl_module, lambda _: None)
        self._outside: str | None = None

    def __enter__(self) -> Self:
        self._outside = self._callers.nearest(self._stack.entered, deep=False).source_line
        self._take_leaves()
        self._stack.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._stack.stop()

    def descends_from(self, tensor: Tensor) -> list[int]:
        """Indices of the suspects that a tensor which is not finite comes from, the earliest first."""
        return sorted(self._marked(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        current: Any = torch._C._current_autograd_node()
        recomputed = current is not None and torch.is_grad_enabled()  # a checkpoint's forward, in the backward pass
        node = None if recomputed else current
        if node is None:
            self._sites.setdefault(_next_sequence() - 1, self._site(op_name(func._schema.name)))
        call = Call(func, args, kwargs)
        result = func(*args, **kwargs)
        if not func.is_view and call.op not in _UNWRITTEN:
            bad = [tensor for tensor in call.results(result) if not is_finite(tensor)]
            if bad:
                self._judge(call, bad, node)
        if current is not None:
            for tensor in call.results(result):
                same = call.op == "neg" and self._is_incoming(call.inputs[0][0], node)  # -0 is no less incoming
                self._made_in[_memory(tensor)] = self._made_in[_memory(call.inputs[0][0])] if same else _sequence(node)
        return result

    def _judge(self, call: Call, bad: list[Tensor], node: Any) -> None:
        """Mark the results that are not finite with where they come from: what went in, this operation, or both."""
        marks: set[int] = set()
        lost = [(tensor, before) for tensor, before in call.inputs if not is_finite(before)]
        for tensor, before in lost:
            marks |= self._marked(tensor) or self._mark([tensor], {self._from_outside(call, before)})
        if (value := call.infinite_scalar) is not None and call.op not in _BOUNDS:
            marks.add(self._accuse(call, bad[0], node, "constant", f"{call.op} with {value}", deliberate=True))
        evidence = call.evidence(bad[0])
        if not marks or (lost and evidence.offenders()) or self._has_nothing_left(call, lost, bad, marks):
            cause, detail = diagnose(evidence)
            if node is not None:
                quotient = call.op == "div" and self._is_incoming(call.inputs[0][0], node)
                unused = quotient and evidence.offenders()[:1] == [0.0]
                cause, detail = of_gradient(node, cause, detail, unused=unused)
            marks.add(self._accuse(call, bad[0], node, cause, detail))
        elif node is not None:
            self._note_discarded(call, marks, node)
        self._mark(bad, marks)

    def _has_nothing_left(
        self, call: Call, lost: list[tuple[Tensor, Tensor]], bad: list[Tensor], marks: set[int]
    ) -> bool:
        """Whether this is a softmax that was given nothing but a deliberate -inf."""
        return (
            call.op in SOFTMAX
            and all(self.suspects[index].deliberate for index in marks)
            and not any(before.isnan().any() for _, before in lost)
            and any((tensor.isneginf() if call.op == "logsumexp" else tensor.isnan()).any() for tensor in bad)
        )

    def _note_discarded(self, call: Call, marks: set[int], node: Any) -> None:
        """An infinite derivative, made in this very node, meets an incoming 0: its result had been discarded."""
        if call.op != "mul" or len(call.inputs) != 2:
            return
        (one, _), (other, _) = call.inputs
        for gradient, derivative in ((one, other), (other, one)):
            if self._is_incoming(gradient, node) and bool(((gradient == 0) & derivative.isinf()).any()):
                for suspect in (self.suspects[index] for index in marks):
                    if suspect.node == _sequence(node):
                        suspect.origin = discarded(suspect.origin)

    def _is_incoming(self, tensor: Tensor, node: Any) -> bool:
        """Whether another node of the backward pass made it: the gradient that came in, not a tensor saved for here."""
        return self._made_in.get(_memory(tensor), _NO_NODE) not in (_NO_NODE, _sequence(node))

    def _site(self, op: str) -> Site:
        return Site(
            op, clean_path(self._stack.running.path), self._callers.nearest(self._stack.entered, deep=False).source_line
        )

    def _accuse(self, call: Call, bad: Tensor, node: Any, cause: str, detail: str, *, deliberate: bool = False) -> int:
        """A new suspect: this call."""
        site = self._site(call.op)
        if node is not None:
            own = site.source_line if site.source_line != self._outside else None  # in the user's own backward function
            forward = self._sites.get(_sequence(node), Site(node.name(), "", None))
            site = forward._replace(source_line=own or forward.source_line)
        low, high = finite_range([before for _, before in call.inputs])
        origin = Origin(
            kind="forward" if node is None else "backward",
            cause=cause,
            op=site.op,
            aten=call.aten,
            module=site.module,
            source_line=site.source_line,
            detail=detail,
            input_min=low,
            input_max=high,
            node=None if node is None else node.name(),
            **bad_values(bad),
        )
        return self._suspect(origin, deliberate=deliberate, node=_sequence(node))

    def _from_outside(self, call: Call, value: Tensor) -> int:
        """A suspect for a tensor that no operation made: a constant of the model's, or one from NumPy."""
        detail = f"{call.op} of a constant, or a value from outside torch"
        return self._accuse(call, value, None, "constant", detail, deliberate=not value.isnan().any())

    def _take_leaves(self) -> None:
        tensors = [*self._module.named_parameters(), *self._module.named_buffers()]
        bad = [(clean_path(name), tensor) for name, tensor in tensors if not is_finite(tensor)]
        for name, tensor in bad:
            names = (name, *(other for other, _ in bad if other != name))
            self._leaf(tensor, Origin("weights", "bad-weights", names=names, **bad_values(tensor)))
        for path, tensor in batch_tensors(self._batch):
            if not is_finite(tensor):
                rows = bad_rows(tensor)
                self._leaf(tensor, Origin("batch", "bad-sample", names=(path,), samples=rows, **bad_values(tensor)))

    def _leaf(self, tensor: Tensor, origin: Origin) -> None:
        self._mark([tensor], {self._suspect(origin, deliberate=not tensor.isnan().any())})  # infinite alone: a mask

    def _suspect(self, origin: Origin, *, deliberate: bool, node: int = _NO_NODE) -> int:
        self.suspects.append(Suspect(origin, deliberate, node))
        return len(self.suspects) - 1

    def _marked(self, tensor: Tensor) -> set[int]:
        known = self._marks.get(_memory(tensor))
        return set() if known is None else known[1]

    def _mark(self, tensors: list[Tensor], marks: set[int]) -> set[int]:
        for tensor in tensors:  # the storage is kept, so that no other gets its address
            self._marks.setdefault(_memory(tensor), (_storage(tensor), set()))[1].update(marks)
        return marks


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return (tensor if tensor.layout is torch.strided else tensor.coalesce().values()).untyped_storage()


def _memory(tensor: Tensor) -> int:
    return int(_storage(tensor)._cdata)


def _next_sequence() -> int:
    """The number that autograd will give to the next node."""
    return int(torch._C._autograd._get_sequence_nr())


def _sequence(node: Any) -> int:
    return _NO_NODE if node is None else int(node._sequence_nr())
