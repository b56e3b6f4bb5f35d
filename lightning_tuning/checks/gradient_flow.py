"""Looks for trained modules that no gradient reaches (LT414)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.rules.detached_graph import Cut, detached
from lightning_tuning.runtime import Check, Desk, FirstStep
from lightning_tuning.trace import Graph, Op, Probe
from lightning_tuning.trace._modules import clean_path

__all__ = ["GradientFlowCheck"]

_CONFIRMATIONS = 3
"""Optimizer steps without a gradient before it is said: a step that trains one half only may be one of two kinds."""

_ITEMS = 64
"""Numbers read in a step that are remembered; a step that reads more of them is not followed further."""


class GradientFlowCheck(Check):
    """Looks for trained modules that no gradient reaches, although the loss is made of what they gave (LT414).

    Why: after a ``detach``, a ``no_grad``, ``.data``, ``.item()`` or a way through numpy the run goes on, and falls, on
    top of features that stay random. The first step's graph names the cut; it is said after three optimizer steps (or
    the epoch's end) in which the accused parameters really had no gradient. Under manual optimization, where a step may
    train one net and use another, nothing is said, nor of parameters that are in no optimizer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientFlowCheck()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._cuts: list[Cut] = []
        self._steps = 0
        self._has_looked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step, and for a look at the gradients of some."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._cuts, self._steps, self._has_looked = [], 0, False
            Desk.of(trainer).watch("before_optimizer_step", self._confirm)
            Desk.of(trainer).watch("train_epoch_end", self._conclude)

    def probes(self) -> Sequence[Probe]:
        """The numbers that ``.item()`` takes out of the step, to know them again."""
        self._numbers = _Numbers()
        return (self._numbers,)

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """Notes the cuts; of a loss without any gradient, which ends the run, it is said at once."""
        numbers, self._numbers = self._numbers, _Numbers()
        self._has_looked = True
        if not step.pl_module.automatic_optimization:
            return
        graph = step.graph
        trained = _trained(step.trainer, step.pl_module)
        cuts = detached(graph, trained, numbers.echoes(graph))
        if any(graph.values[loss].requires_grad for loss in graph.losses):
            self._cuts = cuts
        else:
            yield from (cut.finding for cut in cuts)

    def _confirm(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> bool:
        self._drop_refuted(pl_module)
        if not self._cuts:
            return self._has_looked  # nothing to confirm, or nothing known yet
        self._steps += 1
        return self._steps >= _CONFIRMATIONS and self._conclude(trainer, pl_module)

    def _conclude(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        self._has_looked = True  # what was not seen in the first epoch will not be
        if self._steps:
            for cut in self._cuts:
                self.report(trainer, cut.finding, once=True)
            self._cuts = []
        return True

    def _drop_refuted(self, pl_module: LightningModule) -> None:
        """Whose parameters have a gradient after all, or are no longer there to be asked."""
        if self._cuts:
            parameters = _named_parameters(pl_module)
            self._cuts = [
                cut
                for cut in self._cuts
                if all(name in parameters and parameters[name].grad is None for name in cut.parameters)
            ]


class _Numbers:
    """Remembers, on the device, the numbers that the step reads with ``.item()``; a probe."""

    names: Collection[str] = ("item",)

    def __init__(self) -> None:
        self._taken: dict[int, Tensor] = {}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if len(self._taken) < _ITEMS and inputs and inputs[0].is_floating_point():
            self._taken[op.index] = inputs[0].detach().reshape(()).clone()

    def echoes(self, graph: Graph) -> dict[int, list[int]]:
        """By reading operation: the later ones that have the very number among their arguments. A device sync."""
        taken = {index: float(number) for index, number in self._taken.items()}
        found: dict[int, list[int]] = {}
        if taken:
            for op in graph.ops:
                scalars = {value for value in op.arguments.values() if isinstance(value, float)}
                for index, number in taken.items():
                    if index < op.index and number in scalars and number not in (0.0, 1.0):
                        found.setdefault(index, []).append(op.index)
        return found


def _named_parameters(pl_module: LightningModule) -> dict[str, torch.nn.Parameter]:
    return {clean_path(name): parameter for name, parameter in pl_module.named_parameters(remove_duplicate=False)}


def _trained(trainer: Trainer, pl_module: LightningModule) -> set[str]:
    """Dotted names of the parameters that require gradients and are in an optimizer."""
    held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    return {name for name, p in _named_parameters(pl_module).items() if p.requires_grad and id(p) in held}
