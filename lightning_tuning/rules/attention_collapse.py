"""LT611: attention that sees one key, or all of them alike, whatever it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.rules._activation_layers import ActivationLayer

__all__ = ["LT611", "attention_collapse", "large_scores"]

LT611 = register(
    Rule(
        code="LT611",
        name="attention-collapse",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "A softmax over scores that are far apart picks one key and passes no gradient to the scores; one over "
            "scores that are alike takes the mean and chooses nothing. Unscaled products of d features spread by "
            "sqrt(d)."
        ),
        remedy=(
            "`scores = q @ k.transpose(-2, -1) / math.sqrt(d)`, as `F.scaled_dot_product_attention` does; a layer norm "
            "before the attention (or on q and k), a warm-up, a lower learning rate."
        ),
        source=(
            "Vaswani et al. 2017, Attention Is All You Need, section 3.2.1; Zhai et al. 2023, Stabilizing Transformer "
            "Training by Preventing Attention Entropy Collapse"
        ),
    )
)

_NEARLY_ALL = 0.95
_LOOKS = 10
_LARGE = 8.0


def attention_collapse(
    layer: ActivationLayer, *, one_hot: float, uniform: float, rows: float, looks: float, early: bool
) -> Finding | None:
    """LT611 for one attention, after some looks at it.

    Args:
        layer: what it is.
        one_hot: queries whose entropy was below 2 % of the largest possible one.
        uniform: queries whose entropy was above 98 % of it.
        rows: queries looked at, each with four keys or more that were not masked.
        looks: batches in which it was looked at.
        early: it was looked at from the start of the run: attention that has learned nothing yet is uniform.

    Returns:
        The finding; ``None`` where one in twenty queries or more looks otherwise, or fewer than ten batches were seen.
    """
    if not (looks >= _LOOKS and rows > 0):
        return None
    share, kind = max((one_hot / rows, "one key"), (0.0 if early else uniform / rows, "all keys alike"))
    if not share > _NEARLY_ALL:
        return None
    return LT611.finding(
        f"{share:.0%} > {_NEARLY_ALL:.0%} of the queries see {kind}, in {looks:.0f} batches",
        where=layer.where,
        source_line=layer.source_line,
        evidence={"share": share, "threshold": _NEARLY_ALL, "seen": kind, "batches": int(looks)},
    )


def large_scores(layer: ActivationLayer, spread: float) -> Finding | None:
    """LT611 if the scores of an untrained attention spread so far that its softmax begins saturated.

    Args:
        layer: what it is.
        spread: standard deviation of the scores of one query; 1 for scaled products of standardized features.
    """
    if not _LARGE < spread < float("inf"):
        return None
    return LT611.finding(
        f"before training its scores spread by {spread:.3g} > {_LARGE:g} over the keys of a query: scaled by "
        "1/sqrt(d) they would by about 1",
        where=layer.where,
        source_line=layer.source_line,
        evidence={"spread": spread, "threshold": _LARGE},
    )
