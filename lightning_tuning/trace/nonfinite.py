"""Which operation made the first number that is not finite, found by repeating the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.trace._call import bad_values, is_finite
from lightning_tuning.trace._gradients import discarded
from lightning_tuning.trace._origin import Origin
from lightning_tuning.trace._probe import Probe, Suspect
from lightning_tuning.trace.aside import CannotReplay, replay
from lightning_tuning.trace.rng import RngState

__all__ = ["Origin", "find_origin"]


def find_origin(
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    batch_idx: int,
    *,
    rng: RngState | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    tries: int = 1,
) -> Origin | None:
    """Repeat a training step aside and say where its loss, or else its gradients, stopped being finite.

    Every operation is watched. One that makes a number that is not finite from finite ones is a suspect, and so is a
    batch, a parameter or a constant that is not finite to begin with. What is computed from such a number carries the
    suspect's mark on, until a result is finite again: the -inf of an attention mask ends in its softmax. Blamed is the
    first suspect whose mark arrives at the loss; so a logarithm of 0 is blamed for the NaN of ``x * log(x)``, and a
    mask is not blamed for anything, except that a softmax over a row of -inf alone is a suspect itself. Parameters go
    before the batch, the batch before operations.

    If the loss is finite, the same is asked of the gradients. A suspect of the forward pass whose mark comes back there
    was in a branch that the loss does not use (``torch.where(x > 0, x.log(), 0)`` at 0): its gradient is 0 * inf.

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule, with the weights from which the step was made.
        batch: the batch, as ``training_step`` got it.
        batch_idx: its index.
        rng: the random number generators at the batch's start.
        buffers: buffers at the batch's start, by name; see :func:`~lightning_tuning.trace.aside.replay`.
        tries: how often to repeat a step that comes out finite. Default 1; more are of use for a step that is known to
            have lost numbers, and then depends on more than it is given here.

    Returns:
        The origin, with the number of repetitions that it took; of kind ``"not-reproduced"`` if all was finite in every
        one; ``None`` if the step returned no loss. If the step raises after something became non-finite, the first
        suspect of those.

    Raises:
        CannotReplay: if the step cannot be repeated, or raises before anything became non-finite.
        ValueError: if ``tries`` is less than 1.
    """
    if tries < 1:
        raise ValueError(f"`tries` must be at least 1, got {tries}")
    origin: Origin | None = None
    for count in range(1, tries + 1):
        origin = _repeat(trainer, pl_module, batch, batch_idx, rng=rng, buffers=buffers)
        if origin is None or origin.kind != "not-reproduced":
            return origin and replace(origin, tries=count)
    return origin and replace(origin, tries=tries)


def _repeat(trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, **start: Any) -> Origin | None:
    probe = Probe(pl_module, batch)
    found: list[Origin | None] = []

    def inspect(losses: list[Tensor]) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        found.append(_verdict(probe, losses, gradients))

    try:
        replay(trainer, pl_module, batch, batch_idx, backward=True, context=probe, inspect=inspect, **start)
    except CannotReplay:
        raise
    except Exception as error:
        suspects = [suspect for suspect in probe.suspects if not suspect.deliberate]
        if not suspects:
            raise CannotReplay(f"The repeated training_step raised {type(error).__name__}: {error}") from error
        return _first(suspects)
    return found[0]


def _verdict(probe: Probe, losses: list[Tensor], gradients: list[Tensor]) -> Origin | None:
    if not losses:
        return None
    for loss in losses:
        if not is_finite(loss):
            return _blamed(probe, [loss]) or Origin("forward", "unknown-op", detail="the loss", **bad_values(loss))
    lost = [gradient for gradient in gradients if not is_finite(gradient)]
    if not lost:
        return Origin("not-reproduced", "not-reproduced")
    origin = _blamed(probe, lost) or Origin("backward", "unknown-op", detail="a gradient", **bad_values(lost[0]))
    return discarded(origin) if origin.kind == "forward" else origin


def _blamed(probe: Probe, tensors: list[Tensor]) -> Origin | None:
    """The suspect to blame for tensors that are not finite."""
    marks = sorted({index for tensor in tensors for index in probe.descends_from(tensor)})
    return _first([probe.suspects[index] for index in marks]) if marks else None


def _first(suspects: list[Suspect]) -> Origin:
    """What was broken before the step, or else the earliest; an infinite constant only if it is alone."""
    for kind in ("weights", "batch"):
        for suspect in suspects:
            if suspect.origin.kind == kind:
                return suspect.origin
    return next((suspect.origin for suspect in suspects if not suspect.deliberate), suspects[0].origin)
