"""The base of the checks: look at the first training step, say what is wrong, and be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.runtime.callback import TuningCallback
from lightning_tuning.runtime.desk import Desk
from lightning_tuning.runtime.sparing import Sparing
from lightning_tuning.trace import Graph, Probe, batch_tensors

__all__ = ["Check", "FirstStep"]


class FirstStep(NamedTuple):
    """What a check is shown of the first training step, between its forward and its backward pass.

    Under manual optimization it is shown after the step instead.

    Attributes:
        trainer: of the run.
        pl_module: its LightningModule.
        graph: the step's operations, up to the loss.
        batch: the tensors of the batch by key path (``"batch[0]"``), the names that they have in the graph.
    """

    trainer: Trainer
    pl_module: LightningModule
    graph: Graph
    batch: dict[str, Tensor]


class Check(TuningCallback):
    """Looks once, at the first training step of a fit; changes nothing.

    A subclass answers :meth:`look` with findings; each is reported once, however often it is seen. What has to be
    looked at later than that it asks for by ``Desk.watch`` in its own ``setup``, after this one.

    Its own failure never ends a run: it is said in the summary, and what was asked for elsewhere goes on. A hook of
    Lightning's that a subclass overrides has to see to that itself, with :class:`Sparing`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            Desk.of(trainer).request_trace(self._look, self.probes())

    def probes(self) -> Sequence[Probe]:
        """Fresh probes for one fit, where the check needs values and not the graph alone. Default: none."""
        return ()

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """What is wrong with the step; reading values is allowed here (a device sync, once in a run)."""
        return ()

    def _look(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        desk = Desk.of(trainer)
        with Sparing(desk.journal, self):
            batch = dict(batch_tensors(desk.tracer.batch))
            for finding in self.look(FirstStep(trainer, pl_module, graph, batch)):
                self.report(trainer, finding, once=True)
