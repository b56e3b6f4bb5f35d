"""Looks at what the optimizers hold, and how they are set (LT401-LT409, LT413)."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import UninitializedParameter

from lightning_tuning.findings import PERSISTENCE, Finding
from lightning_tuning.rules._ops import NORMALIZATIONS
from lightning_tuning.rules._optimizers import parameter_groups, parameter_names
from lightning_tuning.rules._ownership import Ownership, hidden_parameters
from lightning_tuning.rules.adam_eps_half import adam_eps_half
from lightning_tuning.rules.adam_l2 import adam_l2
from lightning_tuning.rules.decay_on_norm_and_bias import decay_on_norms_and_biases
from lightning_tuning.rules.large_batch_lr import large_batch_lr
from lightning_tuning.rules.learning_rate_band import learning_rate_bands
from lightning_tuning.rules.no_momentum import no_momentum
from lightning_tuning.rules.parameter_not_optimised import parameters_not_optimised
from lightning_tuning.rules.parameter_optimised_twice import optimised_by_two, optimised_twice_by_one
from lightning_tuning.rules.stale_parameter import stale_parameters, successors
from lightning_tuning.rules.unregistered_parameter import unregistered_parameters
from lightning_tuning.runtime import Check, Desk, FirstStep
from lightning_tuning.trace import Graph

__all__ = ["OptimizerCheck"]


class OptimizerCheck(Check):
    """Looks at what the optimizers hold, and how they are set (LT401-LT409, LT413).

    How they are set it sees at the first training step; what they hold, by the identities of tensors around the first
    step of an optimizer, whether or not the training step can be traced: which parameters have a gradient by then, who
    owns them, who moves them. It reads no gradient.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[OptimizerCheck()], logger=False, enable_checkpointing=False)
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step, and for a look at the first step of an optimizer."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            first = _FirstOptimizerStep(self)
            desk = Desk.of(trainer)
            desk.watch("train_start", first.begin)
            desk.watch("before_optimizer_step", first.see)
            desk.watch("train_batch_end", first.judge)
            self._first = first

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """How the optimizers are set; what is a matter of taste only where the run's outcome can be known."""
        self._first.lines = _lines_of_strangers(step.graph)
        trainer = step.trainer
        groups = parameter_groups(trainer.optimizers, parameter_names(step.pl_module))
        for finding in learning_rate_bands(groups):
            # What is set stays set: one look is as good as many.
            yield dataclasses.replace(finding, count=PERSISTENCE)
        if step.pl_module.automatic_optimization:
            of_norms = {name for op in step.graph.find(*NORMALIZATIONS) for name in op.parameters}
            yield from adam_l2(groups)
            yield from decay_on_norms_and_biases(groups, _steps(trainer), of_norms)
            yield from no_momentum(groups)
            yield from large_batch_lr(groups, _samples_per_step(trainer, step.batch))


class _FirstOptimizerStep:
    """What identities tell around the first batch in which an optimizer steps; then it is done."""

    def __init__(self, check: OptimizerCheck) -> None:
        self.lines: dict[tuple[int, ...], str] = {}
        self._check = check
        self._versions: dict[int, int] = {}
        self._tensors: list[Tensor] | None = None
        self._graded: set[int] = set()
        self._steps: list[tuple[int, frozenset[int]]] = []
        self._is_over = False

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Remember how often each tensor was written to before the first batch."""
        self._is_over = not trainer.optimizers
        self._versions = {id(p): p._version for p in _tensors(trainer, pl_module) if _has_version(p)}
        return True

    def see(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> bool:
        """Remember which tensors have a gradient now, and which of them this optimizer is about to move."""
        if self._is_over:
            return True
        if self._tensors is None:
            self._tensors = list(_tensors(trainer, pl_module))
            for p in self._tensors:  # a lazy one had no elements before its first batch, and was then written to
                if _has_version(p):
                    self._versions.setdefault(id(p), p._version)
        self._graded.update(id(p) for p in self._tensors if p.grad is not None)
        raw = getattr(optimizer, "optimizer", optimizer)
        index = next((i for i, o in enumerate(trainer.optimizers) if getattr(o, "optimizer", o) is raw), None)
        if index is not None:
            own = (p for group in raw.param_groups for p in group["params"])
            self._steps.append((index, frozenset(id(p) for p in own if p.grad is not None)))
        return False

    def judge(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> bool:
        """Say what the batch has shown, if an optimizer stepped in it."""
        if self._is_over:
            return True
        if self._tensors is None:
            return False
        self._is_over = True
        for finding in self._findings(trainer, pl_module, self._tensors):
            self._check.report(trainer, finding, once=True)
        self._tensors = None
        return True

    def _findings(self, trainer: Trainer, module: LightningModule, tensors: list[Tensor]) -> Iterator[Finding]:
        written = frozenset(id(p) for p in tensors if _has_version(p) and self._versions.get(id(p)) != p._version)
        owned = Ownership(module, trainer.optimizers, frozenset(self._graded), written)
        replaced = successors(owned)
        yield from stale_parameters(owned, replaced)
        yield from parameters_not_optimised(owned, explained=replaced)
        yield from optimised_twice_by_one(owned.groups)
        yield from optimised_by_two(owned, self._steps)
        saves_itself = is_overridden("on_save_checkpoint", module)
        yield from unregistered_parameters(owned, saves_itself=saves_itself, lines=self.lines)
        states = [getattr(getattr(o, "optimizer", o), "state", {}) for o in trainer.optimizers]
        yield from adam_eps_half(owned.groups, {p: state for states_of in states for p, state in states_of.items()})


def _tensors(trainer: Trainer, module: Module) -> Iterator[Tensor]:
    """All that an optimizer moves or should: each once."""
    held = (p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"])
    hidden = (found.parameter for found in hidden_parameters(module))
    yield from {id(p): p for source in (module.parameters(), hidden, held) for p in source}.values()


def _has_version(parameter: Tensor) -> bool:
    return not isinstance(parameter, UninitializedParameter) and not parameter.is_inference()


def _lines_of_strangers(graph: Graph) -> dict[tuple[int, ...], str]:
    """By shape, where a tensor with gradient that belongs to nobody was first used; none where two have one shape."""
    strangers = [v for v in graph.values if v.kind == "constant" and v.requires_grad and v.producer is None]
    shapes = Counter(value.shape for value in strangers)
    lines = {}
    for value in strangers:
        readers = graph.consumers(value)
        if shapes[value.shape] == 1 and readers and readers[0].source_line:
            lines[value.shape] = readers[0].source_line
    return lines


def _steps(trainer: Trainer) -> float:
    """Optimizer steps of the whole run; inf where nobody knows."""
    try:
        steps = trainer.estimated_stepping_batches
    except MisconfigurationException:  # accumulation that changes with the epochs
        return math.inf
    return float(steps) if steps > 0 else math.inf


def _samples_per_step(trainer: Trainer, batch: dict[str, Tensor]) -> int:
    """Samples that one optimizer step has seen: the length that most tensors of the batch share, over ranks; 0 = ?."""
    lengths = Counter(tensor.shape[0] for tensor in batch.values() if tensor.dim() > 0)
    if not lengths:
        return 0
    accumulated: int = trainer.accumulate_grad_batches
    return lengths.most_common(1)[0][0] * accumulated * trainer.world_size
