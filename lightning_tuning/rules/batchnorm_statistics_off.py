"""LT323: running statistics that are not those of the training data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import batch_norms, more
from lightning_tuning.rules._ops import weight_layers
from lightning_tuning.rules._reach import from_batch
from lightning_tuning.rules.batchnorm_momentum import is_cumulative

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT323", "are_settled", "is_about_the_batch", "is_about_the_samples", "statistics_off", "unmoved_statistics"]

LT323 = register(
    Rule(
        code="LT323",
        name="batchnorm-statistics-off",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Training normalizes by the batch, evaluation by the running statistics: where these are not the data's, "
            "the net that is evaluated and saved is not the one that was trained."
        ),
        remedy="`nn.BatchNorm2d(channels, momentum=0.1)`, buffers left to the layer, every batch mixed like the data.",
        source="Measured on nets that learn: lag alone is no sign, so the batch before is asked as well",
    )
)

_OFF = 1.5
_OF_FIRST_LOSS = 0.2
"""Of the run's first loss; a difference below that is none, however small the loss has become."""

_FORGOTTEN = 0.01
_BATCHES = 50

_PAIRS = frozenset({"matmul", "mm", "bmm", "addmm", "einsum", "cdist", "pdist", "pairwise_distance"})


def are_settled(batches: int, momenta: Sequence[float]) -> bool:
    """Whether running statistics have forgotten where they started: 99 % of them come from the batches seen.

    Args:
        batches: seen in training mode.
        momenta: of the batch norms, as torch understands them.

    Example:
        >>> are_settled(60, [0.1]), are_settled(40, [0.1]), are_settled(60, [0.01]), are_settled(500, [0.01])
        (True, False, False, True)
    """
    return batches >= _BATCHES and all(0 < m <= 1 and (1 - m) ** batches <= _FORGOTTEN for m in momenta)


def is_about_the_batch(graph: Graph) -> bool:
    """Whether the loss looks at the batch as a whole, so that the batch's own statistics are a part of it.

    Behind the last weight layers a batch norm speaks (redundancy reduction: with the running statistics the
    correlations of a batch are no correlations), or samples are multiplied or compared with each other (contrastive
    losses). There a higher loss by other statistics is no sign of wrong ones.
    """
    layers = {op.index for op in graph.answer(weight_layers)}
    norms = {norm.op.index for norm in graph.answer(batch_norms) if norm.is_training}
    varies = graph.answer(from_batch)
    ends = (graph.upstream(graph.values[loss], through=lambda op: op.index not in layers) for loss in graph.losses)
    behind = set().union(*ends) - layers
    return any(
        index in norms
        or (graph.ops[index].name in _PAIRS and sum(value in varies for value in graph.ops[index].inputs) > 1)
        for index in behind
    )


def is_about_the_samples(graph: Graph) -> bool:
    """Whether the loss of a step, run again with other statistics, tells how good these are.

    It has one that depends on the batch, nothing of it was hidden from the trace, it looks at each sample alone, and no
    batch norm averages all batches since the start.
    """
    return (
        not graph.blind
        and bool(graph.losses)
        and graph.answer(from_batch).issuperset(graph.losses)
        and not is_about_the_batch(graph)
        and not any(is_cumulative(graph, norm) for norm in graph.answer(batch_norms))
    )


def statistics_off(
    train_loss: float,
    eval_loss: float,
    previous_loss: float,
    first_loss: float,
    *,
    batches: int,
    distances: Sequence[tuple[str, float]] = (),
) -> Finding | None:
    """LT323 if one batch has a loss more than 50 % higher by the running statistics than by its own.

    Args:
        train_loss: of the batch, normalized by its own statistics.
        eval_loss: of the same batch with the same weights and random numbers, normalized by the running ones.
        previous_loss: likewise, by the statistics of the batch before; as far off at least, or weights that move fast
            would be blamed on the data. On small nets, most of which learn, with SGD and Adam, the running statistics
            alone were that far off at 56 of 242 looks in the first 140 batches, with this condition at none.
        first_loss: of the run, which gives the scale; a difference below a fifth of it is none.
        batches: seen so far.
        distances: of each batch norm's own statistics from its running ones, by the path of its module: means in
            standard deviations, plus variances in e-folds.

    Example:
        >>> statistics_off(0.5, 1.5, 1.9, 1.1, batches=60, distances=[("bn1", 0.1), ("bn2", 2.5)]).message
        'one batch: loss 1.5 by the running statistics, 0.5 by its own (> 1.5 x), after 60 batches; `bn2` furthest'
        >>> statistics_off(0.5, 0.6, 1.9, 1.1, batches=60)
    """
    gap, between = eval_loss - train_loss, previous_loss - train_loss
    numbers = (train_loss, eval_loss, previous_loss, first_loss)
    if not all(map(math.isfinite, numbers)):
        return None
    least = max((_OFF - 1) * abs(train_loss), _OF_FIRST_LOSS * abs(first_loss))
    if gap <= least or between < gap:
        return None
    known = [(path, distance) for path, distance in distances if math.isfinite(distance)]
    where, worst = max(known, key=lambda pair: pair[1], default=("", 0.0))
    furthest = f"; `{where}` furthest" if where else ""
    return LT323.finding(
        f"one batch: loss {eval_loss:.4g} by the running statistics, {train_loss:.4g} by its own (> {_OFF:g} x), after "
        f"{batches} batches{furthest}",
        where=where,
        evidence={
            "train_loss": train_loss,
            "eval_loss": eval_loss,
            "previous_loss": previous_loss,
            "threshold": _OFF,
            "first_loss": first_loss,
            "distance": worst,
        },
    )


def unmoved_statistics(names: Sequence[str], *, batches: int, momentum: float | None) -> Finding | None:
    """LT323 for batch norms whose running statistics are what they were, bit for bit, while the layers trained.

    Args:
        names: module paths of these batch norms.
        batches: in which they might have moved.
        momentum: of the first of them; 0 explains it.

    Example:
        >>> unmoved_statistics(["net.1"], batches=20, momentum=0.0).message
        'the running mean and variance of `net.1` have not moved in 20 batches of training: momentum is 0'
        >>> unmoved_statistics([], batches=20, momentum=0.1)
    """
    if not names:
        return None
    cause = "momentum is 0" if momentum == 0 else "something puts them back"
    return LT323.finding(
        f"the running mean and variance of `{names[0]}`{more(len(names))} have not moved in {batches} batches of "
        f"training: {cause}",
        where=names[0],
        evidence={"batches": batches, "batch_norms": len(names), "momentum": -1.0 if momentum is None else momentum},
        remedy=(
            "`nn.BatchNorm2d(channels, momentum=0.1)`; to keep loaded statistics, `.eval()` the layer."
            if momentum == 0
            else "leave the buffers to the layer; to keep loaded statistics, `.eval()` it."
        ),
    )
