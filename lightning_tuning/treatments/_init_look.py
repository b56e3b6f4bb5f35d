"""One training step, run aside: what it tells about weights, residual branches and the output layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.functional._recipes import Recipe
from lightning_tuning.rules._ops import output_layers
from lightning_tuning.rules._prior_head import PriorHead, prior_head
from lightning_tuning.rules._residual_branches import ResidualBranch, residual_branches
from lightning_tuning.trace import CannotReplay, Graph, Recorder, replay
from lightning_tuning.treatments._init_draw import layer_recipe
from lightning_tuning.treatments._init_memory import Memory
from lightning_tuning.treatments._init_options import InitOptions
from lightning_tuning.treatments._init_survey import Target
from lightning_tuning.treatments._init_trace import UNSEEN, Use, find_use

__all__ = ["Look", "Step", "look_at_step", "run_aside"]

_ATTEMPTS = 3
"""Batches to look at: a ``training_step`` may return ``None`` for a bad one, but one that always does shows nothing."""

_TRAINED = "trained before a training step had a loss"
_NO_LOSS = f"no loss in the first {_ATTEMPTS} training steps"


class Step(NamedTuple):
    """The training step that is about to be done."""

    trainer: Trainer
    pl_module: LightningModule
    batch: Any
    batch_idx: int


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        uses: by name of the weight, how it is used, or why it is left alone; ``None`` where a user's function fills it.
        branches: the residual branches.
        outputs: names of the weights that feed the loss without another one between.
        head: the bias that may get a prior, or why there is none.
    """

    uses: dict[str, Use | str | None]
    branches: tuple[ResidualBranch, ...] = ()
    outputs: tuple[str, ...] = ()
    head: PriorHead | str = ""


def look_at_step(step: Step, targets: Sequence[Target], options: InitOptions, *, attempt: int) -> Look | None:
    """What the training step shows; the same on every rank, and every rank must call it.

    Args:
        step: that comes.
        targets: weights that wait.
        options: what is wanted.
        attempt: batches looked at so far, this one included; the last of ``_ATTEMPTS`` has to do.

    Returns:
        ``None`` if the step had no loss and another batch may have one.

    Raises:
        MisconfigurationException: if the step cannot be run aside.
    """
    recorder = Recorder(step.pl_module, step.batch)
    losses = run_aside(step, recorder, options)
    for loss in losses:
        recorder.mark_loss(loss)
    look: Look | None = None
    if losses or attempt == _ATTEMPTS:
        graph = recorder.graph
        uses = {target.name: _use(graph, target, step.pl_module) for target in targets}
        memory = Memory.of(step.pl_module)
        for name, use in uses.items():
            if attempt > 1 and not memory.knows_fresh(name, step.pl_module.get_parameter(name)):
                uses[name] = _TRAINED  # a step whose loss nobody saw
            elif use == UNSEEN and not losses:
                uses[name] = _NO_LOSS
        look = Look(uses)
        if options.wants_look:
            outputs = (name for index in sorted(graph.answer(output_layers)) for name in _matrices(graph, index))
            look = Look(
                uses, tuple(graph.answer(residual_branches)), tuple(dict.fromkeys(outputs)), graph.answer(prior_head)
            )
    decided: Look | None = step.trainer.strategy.broadcast(look)  # on another rank a step may branch otherwise
    return decided


def run_aside(step: Step, context: Recorder, options: InitOptions) -> list[Any]:
    """The losses of ``step``, run aside within ``context``.

    Raises:
        MisconfigurationException: if the step cannot be run aside.
    """
    try:
        return replay(*step, context=context)
    except CannotReplay as blind:
        raise MisconfigurationException(
            f"WeightInitCallback({options.batch_wish()}) has to see the first training step. {blind} Name a scheme for"
            " each layer ('he', 'xavier', ...) instead, and keep `residual` and `head_bias`."
        ) from blind


def _use(graph: Graph, target: Target, root: LightningModule) -> Use | str | None:
    if callable(target.choice):
        return None
    if (recipe := layer_recipe(target)) is not None:
        return Use(recipe)
    use = find_use(graph, target.name, target.slot, root)
    if target.choice == "lsuv" and isinstance(use, Use):
        return replace(use, recipe=Recipe("orthogonal", 1.0))
    return use


def _matrices(graph: Graph, index: int) -> list[str]:
    values = (graph.values[i] for i in graph.ops[index].inputs)
    return [v.name for v in values if v.kind == "parameter" and v.name is not None and len(v.shape) >= 2]
