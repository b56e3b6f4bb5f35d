"""Trials by training on one batch: can it be fitted, and do the inputs help (LT110)?"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from lightning_tuning.checks._preflight_batch import replaced
from lightning_tuning.checks._preflight_fit import Fitted, fit_batch, trained_parameters
from lightning_tuning.checks._preflight_step import Judgement, Rehearsal
from lightning_tuning.findings import Verdict
from lightning_tuning.rules._loss_terms import LossTerm
from lightning_tuning.rules.input_ignored import NO_BETTER, input_ignored

__all__ = ["FIT", "INPUT", "Trained", "fit_trial", "input_trial"]

FIT = "overfit one batch"
INPUT = "inputs beat zeros"

RATES = (1e-3, 1e-2)
"""Of Adam, tried in this order; small nets, which need the larger one, take the other order."""

SMALL = 100_000  # parameters
CAPACITY = 10  # parameters per target: with fewer nobody can expect a batch to be learned by heart
HARDLY = 0.02  # spread of the outputs between samples below which inputs may not arrive
_RANDOM = ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli")


@dataclasses.dataclass(frozen=True)
class Trained:
    """The better of the tries to fit the batch, and the learning rate it took."""

    fitted: Fitted
    lr: float


def fit_trial(rehearsal: Rehearsal, *, iterations: int, target: float) -> tuple[Judgement, Trained | None]:
    """Fit one batch, at up to two learning rates."""
    parameters = trained_parameters(rehearsal)
    if not parameters:
        return _not_applicable("the optimizer trains no parameter that asks for gradients"), None
    if not _has_floor_of_zero(rehearsal.terms):
        return _not_applicable("the lowest value of this loss is not known"), None
    count = sum(parameter.numel() for parameter in parameters)
    best: Trained | None = None
    for lr in sorted(RATES, reverse=count < SMALL):
        if rehearsal.clock.is_over:
            break
        fitted = fit_batch(rehearsal, rehearsal.batch, lr=lr, iterations=iterations, target=target)
        if best is None or fitted.has_succeeded or _rank(fitted) < _rank(best.fitted):
            best = Trained(fitted, lr)
        if fitted.has_succeeded or fitted.reason == "no loss":
            break
    if best is None:
        return _undecided("no time was left: `Preflight(max_seconds=...)`"), None
    return _judged(rehearsal, best, count, target), best


def _judged(rehearsal: Rehearsal, best: Trained, count: int, target: float) -> Judgement:
    fitted = best.fitted
    if not fitted.losses:
        return _not_applicable("the step gave no loss with a gradient")
    steps = len(fitted.losses) - 1
    told = f"loss {fitted.first:.3g} -> {fitted.best:.3g} in {steps} iterations of Adam, lr {best.lr:g}"
    if fitted.has_succeeded:
        right = ", all classes right" if fitted.reason == "accuracy" else ""
        return Judgement(Verdict(FIT, "passed", told + right, _finite(fitted.ratio), target))
    if fitted.reason == "time":
        return _undecided(f"{told}, then the time was over: `Preflight(max_seconds=...)`", fitted.ratio, target)
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in trained_parameters(rehearsal))
    reasons = {
        "the lowest value of this loss is not known": fitted.least is None or not fitted.is_explained,
        "weights of half precision are too coarse for this": half,
        "the model is too small to learn a batch by heart": count < CAPACITY * _targets(rehearsal),
        "samples of the same inputs have different targets": _contradicts_itself(rehearsal),
    }
    for reason, holds in reasons.items():
        if holds:
            return _not_applicable(f"{told}; {reason}")
    if fitted.is_improving and math.isfinite(fitted.losses[-1]):
        return _undecided(f"{told}, and falling: `Preflight(iterations=...)`", fitted.ratio, target)
    return Judgement(Verdict(FIT, "failed", f"{told}: not below {target:g} x the first", _finite(fitted.ratio), target))


def _contradicts_itself(rehearsal: Rehearsal) -> bool:
    """Two samples ask for different outputs and give the same inputs, as in tables of a few categories."""

    def kinds(tensors: list[Tensor]) -> int:
        rows = [tensor.detach().double().reshape(len(tensor), -1) for tensor in tensors]
        return len(torch.unique(torch.cat(rows, 1), dim=0))

    for term in rehearsal.terms:
        inputs, targets = list(rehearsal.feeding(term).values()), list(rehearsal.targets(term).values())
        sizes = {tensor.shape[0] if tensor.numel() and tensor.dim() else 0 for tensor in (*inputs, *targets)}
        if inputs and targets and len(sizes) == 1 and 0 not in sizes and kinds(inputs) < kinds([*inputs, *targets]):
            return True
    return False


def input_trial(rehearsal: Rehearsal, trained: Trained | None) -> Judgement:
    """Fit the same batch for as long with zeros for inputs, and see whether that was any worse."""

    def not_applicable(reason: str) -> Judgement:
        return Judgement(Verdict(INPUT, "not applicable", reason, code="LT110"))

    if trained is None or len(trained.fitted.losses) < 2:
        return not_applicable("one batch was not fitted")
    real = trained.fitted
    if real.least is None or not real.is_explained:
        return not_applicable("the lowest value of this loss is not known")
    (term, *_) = rehearsal.terms
    obstacle = _shares(rehearsal, term)
    if obstacle is not None:
        return not_applicable(obstacle)
    content = _content(rehearsal, term)
    if not content:
        return not_applicable("no inputs were found that could be replaced by zeros")
    if all(bool((tensor == tensor[:1]).all()) for tensor in content.values()):
        return not_applicable("the samples of this batch do not differ")
    if not real.has_succeeded and sum(p.numel() for p in trained_parameters(rehearsal)) < CAPACITY * _targets(
        rehearsal
    ):
        return not_applicable("the model is too small to learn a batch by heart")
    zeros = {id(tensor): torch.zeros_like(tensor) for tensor in content.values()}
    steps = len(real.losses)
    zeroed = fit_batch(rehearsal, replaced(rehearsal.batch, zeros), lr=trained.lr, iterations=steps, target=0.0)
    if zeroed.reason not in ("iterations", "accuracy") or real.reason not in ("iterations", "loss", "accuracy"):
        return Judgement(Verdict(INPUT, "undecided", "the two could not be trained for equally long", code="LT110"))
    where = ", ".join(sorted(content))
    finding = input_ignored(real.best, zeroed.best, real.first, iterations=steps - 1, where=where)
    ratio = real.best / zeroed.best if zeroed.best > 0 else math.inf
    told = f"loss {real.best:.3g} with inputs, {zeroed.best:.3g} with zeros for them"
    if finding is not None and (real.spread is None or real.spread > HARDLY):
        # They arrive, for the outputs differ; that they do not help is another illness.
        return Judgement(
            Verdict(
                INPUT, "undecided", f"{told}; yet outputs differ between samples", _finite(ratio), NO_BETTER, "LT110"
            )
        )
    if finding is None and ratio > NO_BETTER:
        return Judgement(Verdict(INPUT, "undecided", f"{told}: too easy a batch", _finite(ratio), NO_BETTER, "LT110"))
    outcome = Verdict(INPUT, "passed" if finding is None else "failed", told, _finite(ratio), NO_BETTER, "LT110")
    return Judgement(outcome, finding)


def _shares(rehearsal: Rehearsal, term: LossTerm) -> str | None:
    """Why the targets would not stay what they are if the inputs were zeros."""
    targets = rehearsal.targets(term)
    if not targets:
        return "the targets do not come from the batch"
    if rehearsal.feeding(term).keys() & targets.keys():
        return "inputs and targets are the same tensor of the batch"
    graph = rehearsal.graph
    assert term.target is not None  # noqa: S101  # it has tensors of the batch
    read = [graph.values[i] for op in graph.upstream(graph.values[term.target]) for i in graph.ops[op].inputs]
    if any(value.kind == "constant" and value.name in _RANDOM for value in read):
        return "the targets are drawn at random"
    if any(value.kind == "parameter" for value in read):
        return "the targets come from a model"
    return None


def _content(rehearsal: Rehearsal, term: LossTerm) -> dict[str, Tensor]:
    """The inputs that hold what is to be learned from: floats, and ids that are embedded; not masks and lengths."""
    graph = rehearsal.graph
    embedded = {
        graph.values[op.inputs[0]].name
        for op in graph.find("embedding")
        if op.inputs and graph.values[op.inputs[0]].kind == "batch"
    }
    return {
        name: tensor
        for name, tensor in rehearsal.feeding(term).items()
        if tensor.dim() > 0 and tensor.numel() and (tensor.is_floating_point() or name in embedded)
    }


def _has_floor_of_zero(terms: list[LossTerm]) -> bool:
    """Whether the loss may become 0: it is made of comparisons that are exact at best."""
    return bool(terms) and all(
        term.kind != "other" and term.label_smoothing == 0 and term.target is not None for term in terms
    )


def _targets(rehearsal: Rehearsal) -> int:
    """Numbers that the model is to learn from one batch."""
    shapes = [rehearsal.graph.values[term.target].shape for term in rehearsal.terms if term.target is not None]
    return max((math.prod(shape) for shape in shapes), default=0)


def _rank(fitted: Fitted) -> float:
    return fitted.ratio if math.isfinite(fitted.ratio) else math.inf


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _not_applicable(reason: str) -> Judgement:
    return Judgement(Verdict(FIT, "not applicable", reason))


def _undecided(told: str, ratio: float = math.nan, target: float | None = None) -> Judgement:
    return Judgement(Verdict(FIT, "undecided", told, _finite(ratio), target))
