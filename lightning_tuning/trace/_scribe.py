"""Writes operations down: what each reads before it runs, what it made after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.trace._arguments import bind
from lightning_tuning.trace._autograd import AutogradReader, custom_function
from lightning_tuning.trace._ledger import Ledger, Slot, tensors_in
from lightning_tuning.trace._lookers import Lookers
from lightning_tuning.trace._modules import ModuleStack
from lightning_tuning.trace._names import Call, name_call
from lightning_tuning.trace._op import Op, make
from lightning_tuning.trace._recorded import Custom, Step
from lightning_tuning.trace._source import Caller, Callers
from lightning_tuning.trace.probe import Probe

__all__ = ["Scribe"]


class Scribe:
    """Keeps the ledger of values and the list of operations. Call it with torch functions disabled.

    Args:
        ledger: values by tensor.
        modules: says which module is running.
        probes: look at the values of the operations that they name.
    """

    def __init__(self, ledger: Ledger, modules: ModuleStack, probes: Sequence[Probe] = ()) -> None:
        self.blind: dict[str, None] = {}
        self.skipped: set[Any] = set()
        """Functions that say nothing of the step, for the mode: it need not tell of them again."""
        self._ledger = ledger
        self._modules = modules
        self._autograd = AutogradReader(ledger, self.read, self._emit_unseen)
        self._callers = Callers()
        self._calls: dict[Any, Call] = {}
        self._lookers = Lookers(probes, self.blind)

    @property
    def unseen(self) -> list[str]:
        """Names of the operations that only autograd knew of."""
        return list(self._autograd.unseen)

    def read(self, tensor: Tensor) -> int:
        """The value that ``tensor`` holds now."""
        ledger = self._ledger
        slot = ledger.slot(tensor)
        if slot is None:
            slot = ledger.enter(tensor)
            node = tensor.grad_fn
            if node is None:
                slot.value = ledger.new_value(tensor, "constant")
            else:
                slot.value = self._autograd.value_of(node, tensor.output_nr)
            return slot.value
        if slot.pending is not None:
            return self._record_custom(slot.pending, tensor)
        if slot.value is None:
            slot.value = ledger.new_value(tensor, *(slot.origin or ("constant", None)))
        slot.value = ledger.bring_up_to_date(slot, slot.value, tensor)
        if slot.version is not None and slot.version != tensor._version:
            slot.value = self._after_foreign_write(slot, slot.value, tensor)
        return slot.value

    def look_up(self, results: Any) -> None:
        """Read the results of a module that no recorded operation made, while that module is still known."""
        if torch._C._current_graph_task_id() == -1:
            for tensor in tensors_in(results):
                slot = self._ledger.slot(tensor)
                if (slot is None and tensor.grad_fn is not None) or (slot is not None and slot.pending is not None):
                    self.read(tensor)

    def begin(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Step | None:
        """Before the operation: what it reads. ``None`` if it is not to be recorded."""
        call = self._calls.get(function)
        if call is None:
            call = self._calls[function] = name_call(function)
        if call.role == "skip":
            self.skipped.add(function)
            return None
        if torch._C._current_graph_task_id() != -1:  # a backward pass is running
            return None
        grad_enabled = torch.is_grad_enabled()
        caller = self._callers.nearest(self._modules.entered, deep=not grad_enabled)
        if caller.optimizer:
            return None
        running = self._modules.running
        followed = grad_enabled or caller.checkpoint
        read = tensors_in(args)
        out = kwargs.get("out") if kwargs else None
        if kwargs:
            read += tensors_in([item for key, item in kwargs.items() if key != "out"])
        if call.role == "flag" or (call.role == "constant" and out is None):
            return Step(call, caller, running, followed, read)
        arguments = bind(function, call.name, args, kwargs)
        if call.role == "write":
            written = tensors_in(args[0]) if args else read[:1]
        else:
            written = read[:1] if arguments.get("inplace") is True else tensors_in(out)
        if caller.function is not None:
            return Step(call, caller, running, followed, read, written, custom=self._custom(caller))
        if call.overwrites:
            read = [tensor for tensor in read if not _among(tensor, written)]
        inputs = tuple([self.read(tensor) for tensor in read])
        step = Step(call, caller, running, followed, read, written, inputs, arguments)
        if self._lookers.foresee(call.name):
            self._lookers.before(self._op(step, ()), read)
        return step

    def finish(self, step: Step, result: Any) -> None:
        """After the operation: what it made."""
        ledger = self._ledger
        if step.call.role == "flag":
            ledger.switch_requires_grad(step.read[0])
            return
        made = [result] if isinstance(result, Tensor) else tensors_in(result)
        if step.written:
            made = [tensor for tensor in made if not _among(tensor, step.written)]
        if step.custom is not None:
            for tensor in (*step.written, *(tensor for tensor in made if not _among(tensor, step.read))):
                (ledger.slot(tensor) or ledger.enter(tensor)).pending = step.custom
            return
        if not step.inputs and not step.written:
            for tensor in made:
                if ledger.slot(tensor) is None:
                    ledger.enter(tensor, ("constant", step.call.name))
            return
        made = [tensor for tensor in made if not self._is_untouched(tensor, step)]
        if not made and not step.written and step.call.role != "read":
            return
        index = len(ledger.ops)
        follows = None
        if step.caller.checkpoint:  # autograd is off here, but the recomputation will be followed
            cut = step.call.name in ("detach", "data")
            follows = not cut and any(ledger.values[value].requires_grad for value in step.inputs)
        outputs = [
            ledger.assign(tensor, index, writes=True, metadata=step.call.metadata, follows=follows)
            for tensor in step.written
        ]
        outputs += [ledger.assign(tensor, index, follows=follows) for tensor in made]
        self._emit(step, tuple(outputs))
        tensors = (*step.written, *made)
        for tensor, value in zip(tensors, outputs, strict=True):
            self._autograd.register(tensor, value, index)
        self._lookers.after(ledger.ops[index], step.read, tensors)

    def _is_untouched(self, tensor: Tensor, step: Step) -> bool:
        """The very tensor that went in came out (``x.contiguous()``), so nothing happened; inert dropout is noted."""
        return _among(tensor, step.read) and ("dropout" not in step.call.name or self._ledger.is_named(tensor))

    def _after_foreign_write(self, slot: Slot, value: int, tensor: Tensor) -> int:
        """The value after a write by something that did not pass by (a collective, an extension, an optimizer)."""
        slot.version = tensor._version
        before = self._ledger.values[value]
        if before.kind in ("parameter", "buffer"):
            return value  # optimizers and batch norms do so
        maker = "before the step" if before.producer is None else f"by {self._ledger.ops[before.producer].name}"
        sentence = (
            f"A tensor of shape {before.shape} made {maker} was overwritten by something that is no torch function."
        )
        self.blind[sentence] = None
        node = tensor.grad_fn
        return value if node is None else self._autograd.value_of(node, tensor.output_nr)

    def _emit(self, step: Step, outputs: tuple[int, ...]) -> int:
        """Append an operation and return its index."""
        self._ledger.ops.append(self._op(step, outputs))
        return len(self._ledger.ops) - 1

    def _op(self, step: Step, outputs: tuple[int, ...]) -> Op:
        """The operation that comes next."""
        running = step.running
        return make(
            Op,
            index=len(self._ledger.ops),
            name=step.call.name,
            module=running.path,
            module_type=running.type_name,
            source_line=step.caller.source_line,
            inputs=step.inputs,
            outputs=outputs,
            parameters=self._ledger.parameters(step.inputs),
            arguments=step.arguments,
            inplace=bool(step.written),
            grad_enabled=step.grad_enabled,
            training=running.training,
        )

    def _emit_unseen(self, name: str, inputs: tuple[int, ...]) -> int:
        unseen = Step(Call(name, "op"), Caller(None), self._modules.running, grad_enabled=True)
        return self._emit(unseen._replace(inputs=inputs, arguments={"opaque": True}), ())

    def _custom(self, caller: Caller) -> Custom:
        """The custom function within whose forward pass an operation happens."""
        local: dict[str, Any] = {} if caller.function is None else caller.function.f_locals  # torch's own frame
        function = local["cls"]
        inputs = []
        for tensor in tensors_in(local["args"], local.get("kwargs")):
            slot = self._ledger.slot(tensor)
            within = slot is not None and slot.pending is not None and slot.pending.function is function
            if (
                within
                and slot is not None
                and slot.value is not None
                and custom_function(tensor.grad_fn) is not function
            ):
                inputs.append(slot.value)  # written to in this very call, not made by an earlier one
            else:
                inputs.append(self.read(tensor))
        return Custom(function, tuple(inputs), caller.source_line, self._modules.running, caller.checkpoint)

    def _record_custom(self, custom: Custom, tensor: Tensor) -> int:
        """The value of what a custom function made; the function becomes one operation now that its result is read."""
        node = tensor.grad_fn
        by_node = custom_function(node) is custom.function
        index = self._autograd.op_of(node) if by_node else None
        if index is None:
            call, caller = Call(custom.function.__name__, "op"), Caller(custom.source_line)
            step = Step(call, caller, custom.running, grad_enabled=by_node or custom.checkpoint)
            index = self._emit(step._replace(inputs=custom.inputs, arguments={"opaque": True}), ())
        follows = None
        if custom.checkpoint:
            follows = any(self._ledger.values[value].requires_grad for value in custom.inputs)
        value = self._ledger.assign(tensor, index, follows=follows)
        op = self._ledger.ops[index]
        self._ledger.ops[index] = dataclasses.replace(op, outputs=(*op.outputs, value))
        if by_node:
            self._autograd.register(tensor, value, index)
        return value


def _among(tensor: Tensor, tensors: Sequence[Tensor]) -> bool:
    for other in tensors:  # noqa: SIM110 (half the price of `any`, some thousand times a step)
        if tensor is other:
            return True
    return False
