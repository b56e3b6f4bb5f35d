"""A light look at a few operations of a real step, found again by where the trace saw them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tuning.trace._mode import WatchingMode
from lightning_tuning.trace._modules import ModuleStack
from lightning_tuning.trace._names import name_call
from lightning_tuning.trace._source import Callers
from lightning_tuning.trace.graph import Op

__all__ = ["Lookout", "See", "Site"]


class Site(NamedTuple):
    """Where an operation stands in the code, by which it is known again in a later step.

    Attributes:
        name: canonical name of the operation.
        module: dotted path of the module that ran.
        source_line: of the user's code.
    """

    name: str
    module: str
    source_line: str | None

    @classmethod
    def of(cls, op: Op) -> Site:
        """The site of a traced operation."""
        return cls(op.name, op.module, op.source_line)


See = Callable[[Site, int, Sequence[Any], Mapping[str, Any], Tensor], None]
"""Is given a site, how often it was passed before in this step, the call's arguments, and what it made."""


class _Passed(NamedTuple):
    site: Site
    nth: int
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class Lookout:
    """Shows the operations of some names to ``see``, from :meth:`start` to :meth:`stop`, right after each has run.

    A torch function mode that knows nothing but names, modules and source lines: a hundredth of a recorder's price, so
    that it can be put on every so many steps. It takes part in nothing: ``see`` runs without autograd, must not write
    to a tensor, draw a random number or wait for the device. What runs in a backward pass (the recomputation of
    activation checkpointing too), in an optimizer, within a custom ``autograd.Function``, without gradients, or aside
    is not shown. Not for modules that :func:`why_not_live` objects to.

    Args:
        module: the module whose submodules give the paths.
        names: canonical names of the operations to be shown.
        see: see :data:`See`; one that fails is asked no more before the next :meth:`start`.

    Attributes:
        passed: how often each site was passed in this step.
        error: what went wrong in ``see`` or here, since the last :meth:`start`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> shown = []
        >>> lookout = Lookout(net, {"relu"}, lambda site, nth, args, kwargs, made: shown.append((site.module, nth)))
        >>> lookout.start()
        >>> _ = net(torch.ones(1, 2))
        >>> lookout.stop()
        >>> shown
        [('1', 0)]
    """

    def __init__(self, module: nn.Module, names: Collection[str], see: See) -> None:
        self.passed: Counter[Site] = Counter()
        self.error: Exception | None = None
        self._names, self._see = frozenset(names), see
        self._modules = ModuleStack(module, lambda _: None)
        self._callers = Callers()
        self._skipped: set[Any] = set()
        self._mode = WatchingMode(self, self._skipped)
        self._known: dict[Any, str] = {}
        self.is_out = False

    def start(self) -> None:
        """Begin with a step."""
        self.stop()
        self.passed.clear()
        self.error = None
        self.is_out = True
        self._modules.start()
        self._mode.put_on()

    def stop(self) -> None:
        """Look no more; does nothing where it was stopped before."""
        if self.is_out:
            self.is_out = False
            self._mode.remove()
            self._modules.stop()

    def before(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Passed | None:
        """For the mode: ``function`` is about to run."""
        name = self._known.get(function)
        if name is None:
            name = name_call(function).name
            if name not in self._names:
                self._skipped.add(function)
                return None
            self._known[function] = name
        if self.error is not None or torch._C._current_graph_task_id() != -1:
            return None
        try:
            with torch._C.DisableTorchFunction():
                return self._pass(name, args, kwargs)
        except Exception as error:  # noqa: BLE001 (the step goes on; who put the lookout on asks for the error)
            self.error = error
            return None

    def after(self, remembered: _Passed, result: Any) -> None:
        """For the mode: the function gave ``result``."""
        if not isinstance(result, Tensor) or torch._C._functorch.is_functorch_wrapped_tensor(result):
            return
        try:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                self._see(*remembered, result)
        except Exception as error:  # noqa: BLE001 (as above)
            self.error = error

    def _pass(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Passed | None:
        enabled = torch.is_grad_enabled()
        caller = self._callers.nearest(self._modules.entered, deep=not enabled)
        if caller.optimizer or caller.function is not None or not (enabled or caller.checkpoint):
            return None
        site = Site(name, self._modules.running.path, caller.source_line)
        nth = self.passed[site]
        self.passed[site] = nth + 1
        return _Passed(site, nth, args, kwargs)
