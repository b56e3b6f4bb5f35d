"""Trial by gradient: does an output see other samples of its batch (LT111)?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lightning_tuning.checks._preflight_reach import Source, embeddings, first_so, gradients, look_with_leaves
from lightning_tuning.checks._preflight_step import Judgement, Rehearsal, Seen, Take
from lightning_tuning.findings import Verdict
from lightning_tuning.rules._loss_terms import LossTerm
from lightning_tuning.rules.sample_mixing import Influence, influences, mixes_on_purpose, sample_mixing
from lightning_tuning.trace import Op

__all__ = ["MIXING", "mixing_trial"]

MIXING = "samples kept apart"

_ELEMENTS = 4  # of an output whose gradient is taken: a dead unit has none


def mixing_trial(rehearsal: Rehearsal, *, allow: bool) -> Judgement:
    """Take the gradient of single outputs with respect to all samples."""

    def not_applicable(reason: str) -> Judgement:
        return Judgement(Verdict(MIXING, "not applicable", reason, code="LT111"))

    if allow:
        return not_applicable("samples may be mixed: `allow_mixing=True`")
    graph = rehearsal.graph
    term = next((term for term in rehearsal.terms if term.target is not None and rehearsal.feeding(term)), None)
    if term is None or term.target is None:
        return not_applicable("no comparison of an output with a target was found in the loss")
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in rehearsal.feeding(term).values()}
    sizes |= {tensor.shape[0] if tensor.dim() else 0 for tensor in rehearsal.targets(term).values()}
    if len(sizes) != 1 or max(sizes) < 2:
        return not_applicable("what is a sample cannot be told from the sizes of the batch")
    (batch_size,) = sizes
    purpose = mixes_on_purpose(graph, graph.values[term.prediction], graph.values[term.target], batch_size)
    if purpose is not None:
        return not_applicable(purpose)
    found: list[tuple[Influence, Op | None]] = []

    def influence(tensor: Tensor, sources: list[tuple[Tensor, int]]) -> Influence | None:
        worst: Influence | None = None
        for element in _elements(tensor):
            toward = gradients(element, [source for source, _ in sources])
            pairs = [(g, axis) for g, (_, axis) in zip(toward, sources, strict=True) if g is not None]
            seen = influences(pairs)
            if seen is not None and (worst is None or len(seen.samples) > len(worst.samples)):
                worst = seen
        return worst

    def look(take: Take, leaves: list[Tensor]) -> None:
        seen = _same_term(take, rehearsal, term)
        sources = [(leaf, 0) for leaf in leaves]
        for source in embeddings(take):
            axis = _sample_axis(source, batch_size)
            if axis is not None:
                sources.append((source.values, axis))
        if seen is None or not sources:
            return
        worst = influence(seen.prediction, sources)
        if worst is None:
            return

        def is_mixed(tensor: Tensor) -> bool:
            at_hand = influence(tensor, sources)
            return at_hand is not None and at_hand.is_mixed

        found.append((worst, first_so(take, seen, is_mixed) if worst.is_mixed else None))

    look_with_leaves(rehearsal, term, look, every_op=False)
    if not found:
        return not_applicable("no gradient reaches the inputs")
    if found[-1][0].is_mixed:
        look_with_leaves(rehearsal, term, look, every_op=True)
    worst, place = found[-1]
    finding = sample_mixing(
        worst,
        batch_size=batch_size,
        where="" if place is None else place.module,
        source_line=None if place is None else place.source_line,
    )
    sentence = f"an output depends on {len(worst.samples)} of {batch_size} samples"
    outcome: Verdict = Verdict(
        MIXING, "passed" if finding is None else "failed", sentence, float(len(worst.samples)), 1.0, "LT111"
    )
    return Judgement(outcome, finding)


def _sample_axis(source: Source, batch_size: int) -> int | None:
    shape = tuple(source.tensor.shape)
    if source.is_batch and shape[0] == batch_size:
        return 0
    return shape.index(batch_size) if shape.count(batch_size) == 1 else None


def _same_term(take: Take, rehearsal: Rehearsal, term: LossTerm) -> Seen | None:
    shape = rehearsal.graph.values[term.prediction].shape
    alike = (s for s in take.terms if s.term.kind == term.kind and tuple(s.prediction.shape) == shape)
    return next((seen for seen in alike if seen.prediction.requires_grad), None)


def _elements(tensor: Tensor) -> Iterator[Tensor]:
    """A few elements, spread over the tensor."""
    flat = tensor.reshape(-1)
    for index in sorted({round(k * (len(flat) - 1) / max(1, _ELEMENTS - 1)) for k in range(_ELEMENTS)}):
        yield flat[index]
