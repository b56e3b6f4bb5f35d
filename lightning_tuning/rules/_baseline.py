"""What a loss is for the best answer that does not look at its input, from the targets that pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules._output_layer import lone_term, target_name

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["Baseline", "LossForm", "Sample", "TargetMoments", "loss_form"]

_MOST_CLASSES = 1000
"""More are a vocabulary, of which no run of some hundred batches shows the prior."""
_PER_CLASS = 10
_KEPT = 40
_FEWEST = 8


class LossForm(NamedTuple):
    """What is known beforehand of the loss of a step.

    Attributes:
        term: the one comparison that it is; ``None`` for all that is made of more, or of something else.
        factor: the loss is so many times its mean.
        classes: how many it chooses between; 0 where it does not.
        target: key path of the targets in the batch; ``None`` where they are computed, or say nothing of a baseline.
        is_known: every summand is a comparison that is known here.
    """

    term: LossTerm | None
    factor: float = 1.0
    classes: int = 0
    target: str | None = None
    is_known: bool = False


def loss_form(graph: Graph) -> LossForm:
    """That of the step in ``graph``; ask by ``graph.answer``."""
    terms, lone = graph.answer(loss_terms), graph.answer(lone_term)
    is_known = bool(terms) and all(term.kind != "other" for term in terms) and not graph.blind
    if lone is None or lone[0].kind == "other":
        return LossForm(None, is_known=is_known)
    term, factor = lone
    shape = graph.values[term.prediction].shape
    classes = 0
    if term.kind in ("cross_entropy", "nll") and shape:
        classes = shape[1] if len(shape) > 1 else shape[0]
    name = target_name(graph, term)
    if term.is_weighted or (term.kind == "l1" and term.op.name != "l1_loss") or classes > _MOST_CLASSES:
        name = None
    return LossForm(term, factor, classes, name, is_known)


class Sample(NamedTuple):
    """A batch: its loss, and of its targets how many there are, their sum, that of their squares, or their classes."""

    loss: float
    size: float
    total: float = 0.0
    squares: float = 0.0
    counts: tuple[float, ...] = ()


class Baseline(NamedTuple):
    """The best constant answer, over the batches sampled last.

    Attributes:
        loss: that it gives.
        gain: how much lower the net's own loss is, batch by batch.
        error: standard error of ``gain``.
        formula: for people.
    """

    loss: float
    gain: float
    error: float
    formula: str


class TargetMoments:
    """Targets of sampled batches, in a memory of fixed size.

    Batch by batch the same targets are answered by the net and by the best constant answer to all targets seen: what
    makes batches differ is in both, so that a gain of 1 % shows in some thousand targets.

    Args:
        kind: of the loss; see :class:`~lightning_tuning.rules._loss_term.LossTerm`.
        factor: the loss is so many times the mean of the comparisons.

    Example:
        >>> moments = TargetMoments("mse")
        >>> for batch in range(20):  # targets of mean 3 and variance 1, answered by 3
        ...     moments.add(Sample(loss=1.0, size=64, total=64 * 3.0, squares=64 * 10.0))
        >>> moments.baseline()
        Baseline(loss=1.0, gain=0.0, error=0.0, formula='var(y)')
    """

    def __init__(self, kind: str, factor: float = 1.0) -> None:
        self.kind, self.factor = kind, factor
        self._samples: list[Sample] = []
        self._size = self._total = self._squares = 0.0
        self._counts: list[float] = []

    def add(self, sample: Sample) -> None:
        """Take a batch in; one without targets, or with numbers that are not finite, is passed over."""
        if sample.size <= 0 or not all(map(math.isfinite, sample[:4])):
            return
        self._samples = [*self._samples[1 - _KEPT :], sample]
        self._size += sample.size
        self._total += sample.total
        self._squares += sample.squares
        known = self._counts or [0.0] * len(sample.counts)
        self._counts = [a + b for a, b in zip(known, sample.counts, strict=True)]

    def baseline(self) -> Baseline | None:
        """See the class; ``None`` while too few targets are known, or where they are all alike."""
        if len(self._samples) < _FEWEST or self._size < _PER_CLASS * max(len(self._counts), 10):
            return None
        answers = [self._constant(sample) for sample in self._samples]
        if not all(answer is not None and answer > 0 for answer in answers):
            return None
        constant = [self.factor * answer for answer in answers if answer is not None]
        gains = [answer - sample.loss for answer, sample in zip(constant, self._samples, strict=True)]
        count = len(gains)
        gain = sum(gain / count for gain in gains)
        error = math.hypot(*(one - gain for one in gains)) / math.sqrt((count - 1) * count)
        formula = {"mse": "var(y)", "l1": "the spread of y"}.get(self.kind, "the entropy of the labels")
        return Baseline(sum(constant) / count, gain, error, formula)

    def _constant(self, sample: Sample) -> float | None:
        """The loss of the constant answer to this batch."""
        if self.kind in ("cross_entropy", "nll"):
            return _cross_entropy(sample.counts, self._counts)
        mean = self._total / self._size
        if self.kind in ("bce", "bce_logits"):
            return _cross_entropy((sample.total, sample.size - sample.total), (self._total, self._size - self._total))
        if self.kind == "mse":
            return sample.squares / sample.size - 2 * mean * sample.total / sample.size + mean * mean
        variance = self._squares / self._size - mean * mean  # of l1: at least what the median would give
        return math.sqrt(variance) if variance > 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "samples": [[*sample[:4], list(sample.counts)] for sample in self._samples],
            "sums": [self._size, self._total, self._squares],
            "counts": list(self._counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._samples = [
            Sample(loss, size, total, squares, tuple(counts)) for loss, size, total, squares, counts in state["samples"]
        ]
        self._size, self._total, self._squares = state["sums"]
        self._counts = list(state["counts"])


def _cross_entropy(counts: Sequence[float], seen: Sequence[float]) -> float | None:
    """Per target in ``counts``, of the shares of what was ``seen``, which ``counts`` is part of."""
    total, size = sum(seen), sum(counts)
    if size <= 0 or min(counts) < 0:
        return None
    return -sum(n / size * math.log(max(all_of_it, n) / total) for n, all_of_it in zip(counts, seen, strict=True) if n)
