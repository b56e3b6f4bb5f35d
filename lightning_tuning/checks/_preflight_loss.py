"""Trials of the loss itself: does it begin where it should (LT206), and does it grow with the batch (LT410)?"""

from __future__ import annotations

import math
from collections import Counter

from lightning_tuning.checks._preflight_batch import doubled
from lightning_tuning.checks._preflight_step import Judgement, Rehearsal, Seen, Take
from lightning_tuning.checks._preflight_terms import term_value
from lightning_tuning.findings import Verdict
from lightning_tuning.rules._output_layer import only_output_layer
from lightning_tuning.rules._trained import seem_trained
from lightning_tuning.rules._weight_facts import weight_facts
from lightning_tuning.rules.initial_loss_off import ExpectedLoss, expected_loss, initial_loss_off
from lightning_tuning.rules.sum_reduction import LT410
from lightning_tuning.trace._modules import clean_path

__all__ = ["INITIAL", "SCALING", "initial_trial", "scaling_trial"]

INITIAL = "initial loss"
SCALING = "loss scaling"

_TWICE = (1.9, 2.1)  # how the loss of a sum grows with twice the samples; that of a mean stays


def initial_trial(rehearsal: Rehearsal) -> Judgement:
    """Hold the first loss against that of a net that knows nothing."""

    def not_applicable(reason: str) -> Judgement:
        return Judgement(Verdict(INITIAL, "not applicable", reason, code="LT206"))

    output = rehearsal.graph.answer(only_output_layer)
    if output is None:
        return not_applicable("what this loss should be at first is not known")
    graph, module = rehearsal.graph, rehearsal.pl_module
    facts = {clean_path(name): fact for name, fact in weight_facts(dict(module.named_parameters())).items()}
    if seem_trained(graph, facts):
        return not_applicable("the weights were trained before")
    found: list[tuple[float, ExpectedLoss | None]] = []

    def look(take: Take) -> None:
        for seen in take.terms[:1]:
            value = term_value(seen)
            if value is not None and len(take.losses) == 1:
                found.append((value, _expected(seen)))

    rehearsal.take(look, keep=rehearsal.term_names)
    if not found or rehearsal.loss is None or not math.isclose(found[0][0], rehearsal.loss, rel_tol=0.05):
        return not_applicable("what this loss should be at first is not known")
    loss, expected = found[0]
    if expected is None:
        return not_applicable("what this loss should be at first is not known")
    finding = initial_loss_off(loss, expected, where=output.op.module)
    ratio = loss / expected.untrained
    told = (
        f"{loss:.4g}, {ratio:.3g} times the {expected.untrained:.4g} ({expected.formula}) of a net that knows nothing"
    )
    return Judgement(Verdict(INITIAL, "passed" if finding is None else "failed", told, ratio, 2.0, "LT206"), finding)


def _expected(seen: Seen) -> ExpectedLoss | None:
    term, prediction, target = seen.term, seen.prediction, seen.target
    if target is None:
        return None
    values = target.detach().double()
    if term.kind in ("cross_entropy", "nll"):
        if prediction.dim() < 2 or target.is_floating_point():
            return None
        counted = target[target != term.ignore_index]
        shares = [count / counted.numel() for count in Counter(counted.tolist()).values()]
        entropy = -sum(share * math.log(share) for share in shares)
        return expected_loss(term.kind, classes=prediction.shape[1], entropy=entropy)
    return expected_loss(term.kind, mean=float(values.mean()), variance=float(values.var(correction=0)))


def scaling_trial(rehearsal: Rehearsal) -> Judgement:
    """Give every sample twice: the mean of a loss stays, a sum doubles."""

    def not_applicable(reason: str) -> Judgement:
        return Judgement(Verdict(SCALING, "not applicable", reason, code="LT410"))

    terms = rehearsal.terms
    if len(terms) != 1 or terms[0].kind == "other" or terms[0].is_weighted:
        return not_applicable("the loss is no single plain comparison")
    (term,) = terms
    sizes = {tensor.shape[0] for tensor in rehearsal.feeding(term).values() if tensor.dim()}
    targets = rehearsal.targets(term)
    if len(sizes) != 1 or not targets or rehearsal.feeding(term).keys() & targets.keys():
        return not_applicable("what is a sample and what its target cannot be told")
    twice = doubled(rehearsal.batch, min(sizes))
    if twice is None:
        return not_applicable("the batch holds something else than samples")
    losses: list[float] = []

    def look(take: Take) -> None:
        losses.extend(float(loss.detach()) for loss in take.losses[:1] if loss.numel() == 1)

    for batch in (rehearsal.batch, twice):
        rehearsal.take(look, batch=batch, evaluation=True)
    if len(losses) != 2 or not all(map(math.isfinite, losses)) or losses[0] == 0:
        return not_applicable("the step gave no finite loss")
    ratio = losses[1] / losses[0]
    told = f"x{ratio:.2f} as every sample is given twice"
    low, high = _TWICE
    if not low < ratio < high:
        return Judgement(Verdict(SCALING, "passed", told, ratio, low, "LT410"))
    finding = LT410.finding(
        f"the loss grows x{ratio:.2f} as every sample of the batch is given twice: it is a sum, not a mean",
        where=term.op.module,
        source_line=term.op.source_line,
        evidence={"ratio": ratio, "loss": losses[0], "samples": min(sizes)},
    )
    return Judgement(Verdict(SCALING, "failed", told, ratio, low, "LT410"), finding)
