"""Trial by gradient: does an output see later steps of its sequence (LT112)?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_tuning.checks._preflight_reach import Source, embeddings, first_so, gradients, look_with_leaves
from lightning_tuning.checks._preflight_step import Judgement, Rehearsal, Seen, Take
from lightning_tuning.findings import Finding, Verdict
from lightning_tuning.rules.future_leak import RELATIVE, Shift, future_leak, next_token_shift
from lightning_tuning.trace import Op

__all__ = ["FUTURE", "future_trial"]

FUTURE = "no look ahead"


class _Look(NamedTuple):
    """The gradients of one step's output, on one source."""

    past: float
    future: float
    step: int
    steps: int
    place: Op | None


def future_trial(rehearsal: Rehearsal) -> Judgement:
    """Find sequences whose targets are the next inputs, and take the gradient of early outputs with respect to them."""
    if not any(term.target is not None for term in rehearsal.terms):
        return Judgement(Verdict(FUTURE, "not applicable", "no target was found in the loss", code="LT112"))
    looks: list[_Look] = []

    def look(take: Take, leaves: list[Tensor]) -> None:
        looks.clear()
        sources = [*embeddings(take), *(Source(leaf, leaf, is_batch=True) for leaf in leaves if leaf.dim() > 1)]
        for seen in take.terms:
            if seen.target is None or not seen.prediction.requires_grad:
                continue
            for source in sources:
                shift = next_token_shift(source.tensor, seen.target, ignore_index=seen.term.ignore_index)
                if shift is not None and (one := _look_ahead(take, seen, source, shift)) is not None:
                    looks.append(one)

    term = next(term for term in rehearsal.terms if term.target is not None)
    look_with_leaves(rehearsal, term, look, every_op=False)
    if not looks:
        reason = "not a next-token task: no target is the input of the next step"
        return Judgement(Verdict(FUTURE, "not applicable", reason, code="LT112"))
    # A sequence autoencoder reads the whole sequence in its encoder, by right: one clean way from input to target is
    # what a decoder has.
    findings = [_future_finding(one) for one in looks]
    if any(finding is None for finding in findings):
        clean = next(one for one, finding in zip(looks, findings, strict=True) if finding is None)
        sentence = f"step {clean.step} of {clean.steps} does not depend on later inputs"
        return Judgement(Verdict(FUTURE, "passed", sentence, clean.future, 0.0, "LT112"))
    look_with_leaves(rehearsal, term, look, every_op=True)
    finding = _future_finding(looks[0])
    sentence = f"step {looks[0].step} of {looks[0].steps} depends on later inputs"
    return Judgement(Verdict(FUTURE, "failed", sentence, looks[0].future, 0.0, "LT112"), finding)


def _future_finding(one: _Look) -> Finding | None:
    place = one.place
    return future_leak(
        one.past,
        one.future,
        step=one.step,
        steps=one.steps,
        where="" if place is None else place.module,
        source_line=None if place is None else place.source_line,
    )


def _look_ahead(take: Take, seen: Seen, source: Source, shift: Shift) -> _Look | None:
    """The gradients of an early and of a middle step's output for the first sample, the worse of them."""
    worst: _Look | None = None

    def past_and_future(output: Tensor, step: int) -> tuple[float, float]:
        (gradient,) = gradients(output, [source.values])
        if gradient is None:
            return 0.0, 0.0
        by_step = (gradient if shift.batch_first else gradient.transpose(0, 1))[0].abs().flatten(1).amax(1).tolist()
        return max(by_step[: step + 1]), max(by_step[step + 1 :], default=0.0)

    for step in sorted({0, shift.steps // 2}):
        output = _output_at(seen, shift, step, source)
        if output is None:
            return None
        past, future = past_and_future(output, step)
        if past == future == 0:
            continue

        def looks_ahead(tensor: Tensor, step: int = step) -> bool:
            same = tensor.dim() == 3 and tensor.shape[:2] == source.values.shape[:2]
            if not same or tensor.shape[2] in tensor.shape[:2]:
                return False  # scores of attention see the future until they are masked
            past, future = past_and_future(_weighted(tensor[(0, step) if shift.batch_first else (step, 0)]), step)
            return future > RELATIVE * past

        place = first_so(take, seen, looks_ahead) if future > RELATIVE * past else None
        if worst is None or future > worst.future:
            worst = _Look(past, future, step, shift.steps, place)
    return worst


def _output_at(seen: Seen, shift: Shift, step: int, source: Source) -> Tensor | None:
    """What the model says at ``step`` of the first sample, as one number."""
    prediction, target = seen.prediction, seen.target
    if target is None:
        return None
    samples = source.tensor.shape[0 if shift.batch_first else 1]
    row = step if shift.batch_first else step * samples
    place = (0, step) if shift.batch_first else (step, 0)
    classes_second = seen.term.op.name in ("cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd")
    if prediction.shape == target.shape:
        layout = (samples, shift.steps) if shift.batch_first else (shift.steps, samples)
        return _weighted(prediction.reshape(*layout, -1)[place])
    if prediction.dim() == 2 and prediction.shape[0] == target.numel():
        return _weighted(prediction[row])
    if prediction.dim() == 3 and target.dim() == 2:
        if classes_second and (prediction.shape[0], prediction.shape[2]) == tuple(target.shape):
            return _weighted(prediction[place[0], :, place[1]])
        if not classes_second and prediction.shape[:2] == target.shape:
            return _weighted(prediction[place])
    return None


def _weighted(row: Tensor) -> Tensor:
    """A row as one number; not its plain sum, which is constant behind a softmax or a norm."""
    return (row.flatten() * torch.linspace(0.5, 1.5, row.numel(), device=row.device, dtype=row.dtype)).sum()
