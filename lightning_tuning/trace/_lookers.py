"""Shows the operations of a step to the probes that asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lightning_tuning.trace.graph import Op
from lightning_tuning.trace.probe import Probe

if TYPE_CHECKING:
    from lightning_tuning.trace.probe import EarlyProbe

__all__ = ["Lookers"]


class Lookers:
    """Probes by the names of the operations that they want to see.

    A probe that fails is shown no more, and the recording goes on without it. Within ``torch.func.vmap`` and ``grad``
    tensors are wrappers that cannot be measured, so nothing is shown.

    Args:
        probes: all of them.
        blind: is told of those that failed.
    """

    def __init__(self, probes: Iterable[Probe], blind: dict[str, None]) -> None:
        self._blind = blind
        self._failed: set[int] = set()
        self._late: dict[str, list[Probe]] = {}
        self._early: dict[str, list[EarlyProbe]] = {}
        for probe in probes:
            looks_early = hasattr(probe, "foresee")  # `isinstance` of a protocol takes a hundred times as long
            for name in probe.names:
                self._late.setdefault(name, []).append(probe)
                if looks_early:
                    self._early.setdefault(name, []).append(cast("EarlyProbe", probe))

    def foresee(self, name: str) -> bool:
        """Whether somebody wants to see operations of that name before they run."""
        return name in self._early

    def before(self, op: Op, inputs: Sequence[Tensor]) -> None:
        """``op`` is about to run."""
        for probe in self._early.get(op.name, ()):
            self._show(probe, probe.foresee, op, inputs)

    def after(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """``op`` has run."""
        for probe in self._late.get(op.name, ()):
            self._show(probe, probe.look, op, inputs, outputs)

    def _show(self, probe: Probe, look: Callable[..., None], op: Op, *tensors: Sequence[Tensor]) -> None:
        if id(probe) in self._failed or any(_is_wrapper(tensor) for some in tensors for tensor in some):
            return
        try:
            with torch.no_grad():
                look(op, *tensors)
        except Exception as error:  # noqa: BLE001 (the step goes on; the graph says that something is missing)
            self._failed.add(id(probe))
            what = next(iter(str(error).splitlines()), "")
            self._blind[f"{type(probe).__name__} failed ({type(error).__name__}: {what}) at {op.name}."] = None


def _is_wrapper(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
