"""Looks at what batch norms are fed, and how they keep their statistics (LT307-LT313, LT322, LT323)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_tuning.checks._statistics import StatisticsWatch
from lightning_tuning.findings import Finding
from lightning_tuning.rules._norms import advanced_counters, batch_norms, counter_of
from lightning_tuning.rules.batchnorm_axis import wrong_axes
from lightning_tuning.rules.batchnorm_in_recurrence import padded_batch_norms, recurrent_batch_norms
from lightning_tuning.rules.batchnorm_momentum import high_momenta
from lightning_tuning.rules.batchnorm_on_output import batch_norms_on_output
from lightning_tuning.rules.batchnorm_small_batch import last_batch_of_one, small_batch
from lightning_tuning.rules.batchnorm_statistics_off import is_about_the_samples
from lightning_tuning.rules.bias_before_batchnorm import cancelled_biases
from lightning_tuning.rules.drifting_frozen_batchnorm import drifting_batch_norms
from lightning_tuning.rules.mixed_normalisation_order import mixed_orders
from lightning_tuning.runtime import Check, Desk, FirstStep
from lightning_tuning.runtime.tracing import why_not_again
from lightning_tuning.trace import Graph, Op, Probe

__all__ = ["BatchNormCheck"]


class BatchNormCheck(Check):
    """Looks at what batch norms are fed, and how they keep their statistics (LT307-LT313, LT322, LT323).

    Why: a batch norm is the one layer that behaves differently in training and evaluation by design, so its mistakes
    show where nobody looks. At the first training step, on the dataflow (modules and ``F.batch_norm`` alike): batches
    too small for a statistic, or a last batch of one sample that will raise (LT307); one batch norm for all steps of a
    recurrence, or over padding (LT308); a batch norm on the output (LT309); a bias that it cancels (LT310); both orders
    of norm and activation in one net (LT311); sequence taken for channels (LT312); a momentum of another library
    (LT313); frozen scale and shift with moving statistics (LT322).

    At the end of the first epoch with enough batches (20; 50 and what the momentum needs to forget its start), once:
    statistics that never moved, or that give one batch a loss more than 50 % above that by its own, where those of the
    batch before do no better (LT323). For the latter two steps near the epoch's end are run aside, with everything put
    back: four forward passes, once in a run. It is left out under manual optimization, where the loss compares the
    samples of a batch (contrastive losses, correlations), and where a step cannot be repeated without harm (iterators
    or environments in the module, sharded parameters). Nets without a batch norm cost nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[BatchNormCheck()], logger=False, accelerator="cpu")

    Source: Ioffe and Szegedy 2015, "Batch Normalization"; Wu and He 2018, "Group Normalization".
    """

    _padding: PaddingProbe | None = None
    _watch: StatisticsWatch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew."""
        self._watch = None
        super().setup(trainer, pl_module, stage)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the copies."""
        self._watch = None

    def probes(self) -> Sequence[Probe]:
        """One that sees whether unpacked sequences differ in length."""
        self._padding = PaddingProbe()
        return [self._padding]

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """What the first step tells; the rest is asked for to be looked at later."""
        probe, self._padding = self._padding, None
        graph, trainer = step.graph, step.trainer
        if not graph.answer(batch_norms):
            return []
        self._look_later(step)
        manual = not step.pl_module.automatic_optimization or len(trainer.optimizers) > 1
        found = [
            recurrent_batch_norms(graph),
            padded_batch_norms(graph, probe.padded if probe else ()),
            cancelled_biases(graph),
            mixed_orders(graph),
            high_momenta(graph),
            drifting_batch_norms(graph, toggled=_optimized(trainer, step.pl_module) if manual else ()),
        ]
        if not trainer.overfit_batches:  # type: ignore[attr-defined]  # set by a connector of Lightning's
            accumulation = trainer.accumulate_grad_batches
            found.append(small_batch(graph, replicas=trainer.world_size, accumulation=accumulation))
            found.append(_last_batch(graph, trainer))
        return [
            *(finding for finding in found if finding is not None),
            *batch_norms_on_output(graph),
            *wrong_axes(graph),
        ]

    def _look_later(self, step: FirstStep) -> None:
        norms = [norm for norm in step.graph.answer(batch_norms) if norm.is_training and norm.is_tracking]
        if not norms:
            return
        may_replay = is_about_the_samples(step.graph) and why_not_again(step.pl_module) is None
        counted = {norm.identity for norm in norms if counter_of(norm) in step.graph.answer(advanced_counters)}
        self._watch = StatisticsWatch(norms, counted, step.pl_module, may_replay=may_replay)
        desk = Desk.of(step.trainer)
        desk.watch("train_batch_start", self._on_second_batch)
        desk.watch("train_batch_end", self._on_batch_end)
        desk.watch("train_epoch_end", self._on_epoch_end)

    def _on_second_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        if self._watch is not None:
            self._watch.on_second_batch(pl_module)
        return True

    def _on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> bool:
        if self._watch is not None:
            self._watch.on_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        return self._watch is None

    def _on_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        if self._watch is None:
            return True
        finding, decided = self._watch.on_epoch_end(pl_module)
        if decided:
            self._watch = None
        if finding is not None:
            self.report(trainer, finding, once=True)
        return decided


class PaddingProbe:
    """Notes which ``pad_packed_sequence`` filled sequences up; lengths lie on the host, so nothing is waited for."""

    names: Collection[str] = ("pad_packed_sequence",)

    def __init__(self) -> None:
        self.padded: set[int] = set()

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See one operation."""
        sizes = inputs[1] if len(inputs) > 1 else None  # sequences that reach each position, not rising
        if sizes is not None and sizes.is_cpu and sizes.numel() and bool(sizes[0] != sizes[-1]):
            self.padded.add(op.index)


def _optimized(trainer: Trainer, pl_module: LightningModule) -> set[str]:
    """Names of the parameters that some optimizer has."""
    ids = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    return {name for name, parameter in pl_module.named_parameters() if id(parameter) in ids}


def _last_batch(graph: Graph, trainer: Trainer) -> Finding | None:
    """LT307 for the epoch's last batch, if the run comes to it and the loader's length is known."""
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return None
    sampler = loader.batch_sampler
    samples: int | None = None
    with contextlib.suppress(TypeError, NotImplementedError):  # of no length
        samples = len(sampler.sampler)  # type: ignore[arg-type]  # a Sized, mostly
    if samples is None or sampler.drop_last:
        return None
    batches = math.ceil(samples / sampler.batch_size)
    reached = trainer.num_training_batches >= batches
    if trainer.max_steps >= 0 and trainer.max_steps * trainer.accumulate_grad_batches < batches:
        reached = False
    if not reached:
        return None
    return last_batch_of_one(graph, samples=samples, batch_size=sampler.batch_size, where="train_dataloader")
