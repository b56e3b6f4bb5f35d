"""When and how the first training step is traced, for whoever asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.findings import Journal
from lightning_tuning.trace import CannotReplay, Graph, Probe, Recorder, replay, why_not_live

__all__ = ["OnTrace", "Tracer", "iterator_in", "why_not_again"]

OnTrace = Callable[[Trainer, LightningModule, Graph], None]

_ATTEMPTS = 3
"""Batches to try: a ``training_step`` may return ``None`` for a bad batch, but one that always does has no loss to
trace."""


class Tracer:
    """Records one training step: the real one, or a repetition aside where recording would change its numbers.

    Attributes:
        batch: what the recorded step was given, for the time of the delivery of its graph.
    """

    def __init__(self) -> None:
        self.batch: Any = None
        self._receivers: list[OnTrace] = []
        self._probes: list[Probe] = []
        self._recorder: Recorder | None = None
        self._losses = 0
        self._attempts = 0

    @property
    def wanted(self) -> bool:
        """Somebody waits for a trace."""
        return bool(self._receivers) and self._attempts < _ATTEMPTS

    @property
    def gave_up(self) -> bool:
        """Somebody waits for a trace that will not come."""
        return bool(self._receivers) and self._attempts >= _ATTEMPTS

    @property
    def running(self) -> bool:
        """The real step is being recorded at this moment."""
        return self._recorder is not None

    def request(self, receive: OnTrace, probes: Sequence[Probe] = ()) -> None:
        """Call ``receive`` with the graph once there is one; ``probes`` look at the values of its operations."""
        self._receivers.append(receive)
        self._probes += probes

    def start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin with this batch; a step that must not be recorded live is repeated aside at once."""
        self.abandon()
        self._attempts += 1
        self._losses = 0
        reason = why_not_live(pl_module)
        recorder = Recorder(pl_module, batch, self._probes)
        self.batch = batch
        if reason is None:
            self._recorder = recorder
            recorder.__enter__()
            return
        if holder := iterator_in(pl_module):
            blind = f"{reason} And `{holder}` is an iterator: a repetition of the step would use up a batch of it."
            self._deliver(trainer, pl_module, Graph(blind=[blind]))
            return
        try:
            for loss in replay(trainer, pl_module, batch, batch_idx, context=recorder, force_eager=True):
                recorder.mark_loss(loss)
            self._deliver(trainer, pl_module, recorder.graph)
        except CannotReplay as obstacle:
            self._deliver(trainer, pl_module, Graph(blind=[f"{reason} {obstacle}"]))

    def reach_loss(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """``loss`` is about to go backward; with automatic optimization the step's forward ends here."""
        if self._recorder is None:
            return
        self._recorder.mark_loss(loss)
        self._losses += 1
        if pl_module.automatic_optimization:
            self.finish(trainer, pl_module)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step is over; deliver the graph if it has a loss, else try the next batch."""
        recorder, losses, batch = self._recorder, self._losses, self.batch
        self.abandon()
        if recorder is not None and losses:
            self.batch = batch
            self._deliver(trainer, pl_module, recorder.graph)

    def abandon(self) -> None:
        """Stop recording, whatever state it is in."""
        self.batch = None
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            recorder.__exit__(None, None, None)

    def _deliver(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        receivers, self._receivers, self._probes, self._attempts = self._receivers, [], [], 0
        names = dict.fromkeys(type(getattr(receive, "__self__", receive)).__name__ for receive in receivers)
        for sentence in graph.blind:
            Journal.of(trainer).note(f"blind here: {sentence} May have missed something: {', '.join(names)}.")
        try:
            for receive in receivers:
                receive(trainer, pl_module, graph)
        finally:
            self.batch = None


def iterator_in(pl_module: LightningModule) -> str | None:
    """The name of an iterator that a module holds; nothing can put one back."""
    for path, module in pl_module.named_modules():
        for name, value in vars(module).items():
            if hasattr(type(value), "__next__"):
                return f"{path}.{name}" if path else name
    return None


def why_not_again(pl_module: LightningModule) -> str | None:
    """Why a step of this module cannot be run once more without harm, and to the same loss; ``None`` if it can."""
    if not pl_module.automatic_optimization:
        return "a manual step has no one loss"
    if holder := iterator_in(pl_module):
        return f"`{holder}` is an iterator, of which a repetition of the step would use up a batch"
    held = (value for module in pl_module.modules() for value in vars(module).values())
    if any(callable(getattr(type(v), "step", None)) and callable(getattr(type(v), "reset", None)) for v in held):
        return "it holds an environment, as in reinforcement learning, where no step comes twice"
    return None
