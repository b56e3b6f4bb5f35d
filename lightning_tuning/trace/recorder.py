"""Records one training step as it happens: a torch function mode that watches and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_tuning.trace._ledger import Ledger
from lightning_tuning.trace._mode import WatchingMode
from lightning_tuning.trace._modules import ModuleStack, clean_path
from lightning_tuning.trace._recorded import Step
from lightning_tuning.trace._scribe import Scribe
from lightning_tuning.trace.batch import batch_tensors
from lightning_tuning.trace.graph import Graph
from lightning_tuning.trace.probe import Probe

__all__ = ["Recorder"]

_T = TypeVar("_T")


class Recorder:
    """Records the operations of one training step of ``module`` on ``batch``, up to its losses, as a :class:`Graph`.

    Enter it where the work on the batch starts; name each loss with :meth:`mark_loss` as it goes into its backward pass
    (``loss.backward()`` within is noticed by itself); leave it when the last loss is known. With manual optimization it
    may stay for the whole step: backward passes and optimizer updates within are not recorded.

    It watches one real step: no extra forward pass, no random number drawn, no value read, no tensor kept alive. What
    it cannot see is said in ``graph.blind``; a failure of its own is said there too, and never breaks the step. Of a
    custom ``autograd.Function`` it sees one opaque operation. See :func:`why_not_live` for modules whose real step must
    not be recorded.

    Args:
        module: the module whose parameters, buffers and submodules give the names.
        batch: what the step is given; its tensors are found in mappings, sequences, named tuples and objects.
        probes: look at the values of some operations, right after each; see :class:`Probe`. Default: none.

    Raises:
        RuntimeError: when entered a second time; a recorder records one step.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1))
        >>> batch = {"x": torch.ones(4, 3)}
        >>> with Recorder(net, batch) as recorder:
        ...     loss = net(batch["x"]).sum()
        ...     recorder.mark_loss(loss)
        >>> linear, dropout, total = recorder.graph.ops
        >>> linear.parameters, dropout.module, dropout.arguments["p"]
        (('0.weight', '0.bias'), '1', 0.1)
        >>> recorder.graph.values[linear.inputs[0]].name
        "batch['x']"
    """

    def __init__(self, module: nn.Module, batch: Any, probes: Sequence[Probe] = ()) -> None:
        self._ledger = Ledger()
        self._modules = ModuleStack(module, self._leave_module)
        self._scribe = Scribe(self._ledger, self._modules, probes)
        self._mode = WatchingMode(self, self._scribe.skipped)
        self._losses: dict[int, None] = {}
        self._graph: Graph | None = None
        self._started = False
        self._leaves: tuple[Any, ...] = (module, batch)

    def __enter__(self) -> Recorder:  # noqa: PYI034 (Self is not in Python 3.10)
        if self._started:
            raise RuntimeError("A Recorder records one step; make a new one for another.")
        self._started = True
        leaves, self._leaves = self._leaves, ()
        self._guarded(self._enter_known, *leaves)  # not before: in a step aside the buffers are stand-ins
        self._modules.start()
        self._mode.put_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mode.remove()
        self._modules.stop()

    def mark_loss(self, loss: Tensor) -> None:
        """Say that ``loss`` goes into a backward pass; may be called several times, and after the recorder was left.

        Args:
            loss: the very tensor that the step computed.

        Raises:
            ValueError: if ``loss`` is no tensor.
        """
        if not isinstance(loss, Tensor):
            raise ValueError(f"`loss` must be a tensor, got {type(loss).__name__}.")
        self._guarded(self._mark, loss)

    @property
    def graph(self) -> Graph:
        """What was recorded up to now."""
        if self._graph is None:
            blind = list(self._scribe.blind)
            if self._scribe.unseen:
                blind.append(
                    "Known from autograd's graph alone (TorchScript, C++ or another thread ran them), without source "
                    f"line, arguments and inputs that need no gradient: {', '.join(self._scribe.unseen)}."
                )
            self._graph = Graph(list(self._ledger.ops), list(self._ledger.values), list(self._losses), blind)
        return self._graph

    def before(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Step | None:
        """For the mode: ``function`` is about to run."""
        if getattr(function, "__name__", None) == "backward" and args and isinstance(args[0], Tensor):
            self._guarded(self._mark, args[0])
            return None
        return self._guarded(self._scribe.begin, function, args, kwargs)

    def after(self, remembered: Step, result: Any) -> None:
        """For the mode: the function gave ``result``."""
        self._graph = None
        self._guarded(self._scribe.finish, remembered, result)

    def _guarded(self, work: Callable[..., _T], *args: Any) -> _T | None:
        """``work(*args)``; what goes wrong in it is the recorder's own trouble and must not become the user's."""
        try:
            with torch._C.DisableTorchFunction():  # looking at tensors must not be recorded
                return work(*args)
        except Exception as error:  # noqa: BLE001 (the step goes on; the graph says that it is incomplete)
            sentence = f"The recorder failed ({type(error).__name__}: {error}); operations may be missing."
            self._scribe.blind[sentence] = None
            self._graph = None
            return None

    def _enter_known(self, module: nn.Module, batch: Any) -> None:
        for name, parameter in module.named_parameters():
            self._ledger.enter(parameter, ("parameter", clean_path(name)))
        for name, buffer in module.named_buffers():
            self._ledger.enter(buffer, ("buffer", clean_path(name)))
        for path, tensor in batch_tensors(batch):
            if self._ledger.slot(tensor) is None:
                self._ledger.enter(tensor, ("batch", path))

    def _mark(self, loss: Tensor) -> None:
        self._graph = None
        value = self._scribe.read(loss)
        if self._ledger.values[value].producer is None:
            self._scribe.blind["A loss was marked that no operation seen here made."] = None
        self._losses[value] = None

    def _leave_module(self, output: Any) -> None:
        self._graph = None
        self._guarded(self._scribe.look_up, output)
