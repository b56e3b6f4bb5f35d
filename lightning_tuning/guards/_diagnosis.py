"""Why a batch was bad: its samples, the weights, and a replay of the step."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_tuning.guards._batch import bad_sample
from lightning_tuning.guards._memory import Memory
from lightning_tuning.guards._past import stale_updates, summed_samples
from lightning_tuning.guards._ranks import AloneMode, exchange, several_ranks
from lightning_tuning.guards._samples import SampleIndices
from lightning_tuning.rules.non_finite import BadStep, is_of_growth
from lightning_tuning.trace import CannotReplay, Origin, RngState, find_origin

__all__ = ["Facts", "Scene", "diagnose", "facts_of", "non_finite_anywhere", "non_finite_names"]

_TRIES = 3
"""Repetitions of a step that comes out finite, before that is believed."""


@dataclasses.dataclass(slots=True)
class Scene:
    """A batch under way: what is needed to run it again; with the defaults, the time between two batches.

    Attributes:
        batch: as ``training_step`` gets it.
        batch_idx: its index in the epoch.
        rng: the random number generators before it; ``None``: nobody wanted them.
        replay: it may be run again to find out why it is bad.
        losses: those that went backward and were not judged yet; numbers where they lie on the host anyway.
        unscaled: the same without a GradScaler's factor, where somebody asks for that.
        seen: those that were judged; unscaled if they were asked for.
        bad: it was found to be; what is left of it is dropped.
        stepped: an optimizer was about to step in it.
        unmute: gives the module its clipping back.
    """

    batch: Any = None
    batch_idx: int = 0
    rng: RngState | None = None
    replay: bool = False
    losses: list[Tensor | float] = dataclasses.field(default_factory=list)
    unscaled: list[Tensor | float] = dataclasses.field(default_factory=list)
    seen: list[float] = dataclasses.field(default_factory=list)
    bad: bool = False
    stepped: bool = False
    unmute: Callable[[], None] | None = None

    def end(self) -> Scene:
        """The batch is over."""
        if self.unmute is not None:
            self.unmute()
        return Scene()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What one rank sees of a step that may be bad."""

    losses: tuple[float, ...]
    gradients: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def bad_loss(self) -> bool:
        """One of the losses is not finite."""
        return not all(map(math.isfinite, self.losses))

    @property
    def bad(self) -> bool:
        """Anything is not finite."""
        return bool(self.bad_loss or self.gradients or self.weights)


def facts_of(pl_module: LightningModule, optimizers: list[Optimizer], scene: Scene) -> Facts:
    """Look at every loss, gradient and weight: some host reads, for a step that is already suspected."""
    used = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    parameters = list(pl_module.named_parameters())
    return Facts(
        losses=tuple(float(loss) for loss in scene.losses),
        gradients=non_finite_names((name, p.grad) for name, p in parameters if id(p) in used),
        weights=non_finite_names(parameters),
    )


def non_finite_names(named: Iterable[tuple[str, Tensor | None]]) -> tuple[str, ...]:
    """Names of the tensors that hold NaN or an infinity, by looking at every element: one host read per device."""
    asked: dict[torch.device, tuple[list[str], list[Tensor]]] = {}
    for name, tensor in named:
        if (
            tensor is None
            or is_lazy(tensor)
            or not (tensor.is_floating_point() or tensor.is_complex())
            or tensor.dtype.itemsize == 1
        ):
            continue  # no values yet, or of a kind that torch cannot ask (float8)
        local = getattr(tensor.detach(), "to_local", tensor.detach)()
        local = local.coalesce().values() if local.is_sparse else local
        names, finite = asked.setdefault(local.device, ([], []))
        names.append(name)
        finite.append(local.isfinite().all())
    return tuple(
        name
        for names, finite in asked.values()
        for name, is_finite in zip(names, torch.stack(finite).tolist(), strict=True)
        if not is_finite
    )


def non_finite_anywhere(named: Iterable[tuple[str, Tensor | None]]) -> tuple[str, ...]:
    """The same on every rank: names that any of them found; every rank must call it."""
    return tuple(dict.fromkeys(name for names in exchange(non_finite_names(named)) for name in names))


def diagnose(
    trainer: Trainer,
    pl_module: LightningModule,
    scene: Scene,
    everybody: list[Facts],
    *,
    buffers: dict[str, Tensor],
    memory: Memory,
    samples: SampleIndices,
) -> BadStep:
    """What is known of the bad step; the same on every rank, and every rank must call it.

    The ranks whose loss is bad look into their batch and replay it, or all do if no loss is; the one that found most
    answers for all.

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule.
        scene: this rank's batch.
        everybody: the facts of all ranks.
        buffers: at the batch's start, where they were kept.
        memory: of the updates before.
        samples: tells the dataset indices of this rank's bad samples, and is left knowing them.
    """
    bad_loss = any(facts.bad_loss for facts in everybody)
    rank = trainer.global_rank if several_ranks() else 0
    own = everybody[rank]
    step = BadStep(
        losses=own.losses,
        gradients=own.gradients,
        weights=own.weights,
        norms=tuple(memory.norms),
        batch_idx=scene.batch_idx,
        step=trainer.global_step,
        rank=rank if several_ranks() else None,
    )
    if not step.weights and (own.bad_loss or not bad_loss):
        origin, blind = _origin(trainer, pl_module, scene, buffers)
        step = dataclasses.replace(step, origin=origin, blind=blind)
    if (culprits := samples.blame(pl_module, scene.batch, step.origin)) is not None:
        step = dataclasses.replace(step, dataset_indices=culprits.indices, dataset_doubt=culprits.doubt)
    if is_of_growth(step):
        step = _with_past(trainer, pl_module, scene, step, buffers=buffers, memory=memory)
    return max(exchange(step), key=_knowledge)


def _knowledge(step: BadStep) -> tuple[bool, ...]:
    kind = "" if step.origin is None else step.origin.kind
    return bool(step.weights), kind == "batch", step.bad_loss is not None, kind in ("forward", "backward", "weights")


def _origin(
    trainer: Trainer, pl_module: LightningModule, scene: Scene, buffers: dict[str, Tensor]
) -> tuple[Origin | None, str]:
    """Where the first non-finite number came from, and why the step was not replayed."""
    if not scene.replay:
        return bad_sample(scene.batch), ""
    try:
        with _alone():
            start: dict[str, Any] = {"rng": scene.rng, "buffers": buffers}
            origin = find_origin(trainer, pl_module, scene.batch, scene.batch_idx, **start, tries=_TRIES)
    except CannotReplay as limit:
        return bad_sample(scene.batch), str(limit)
    return origin, ""


def _with_past(
    trainer: Trainer,
    pl_module: LightningModule,
    scene: Scene,
    step: BadStep,
    *,
    buffers: dict[str, Tensor],
    memory: Memory,
) -> BadStep:
    """The same with what the updates before tell."""
    pace = memory.pace(trainer, pl_module)
    stale = summed = 0
    if scene.replay and memory.updates:
        arguments = {"batch": scene.batch, "batch_idx": scene.batch_idx, "rng": scene.rng, "buffers": buffers}
        with _alone():
            stale = stale_updates(trainer, pl_module, arguments, updates=memory.updates)
            summed = summed_samples(trainer, pl_module, arguments)
    return dataclasses.replace(step, pace=pace, stale_updates=stale, summed=summed)


def _alone() -> contextlib.AbstractContextManager[Any]:
    return AloneMode() if several_ranks() else contextlib.nullcontext()  # type: ignore[no-untyped-call]
