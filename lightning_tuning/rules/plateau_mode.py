"""LT505: a callback waits for a metric to move in the direction in which it gets worse."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT505", "better_direction", "contradicted_modes", "contradicts_name", "contradicts_observation"]

LT505 = register(
    Rule(
        code="LT505",
        name="plateau-mode",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "With the wrong mode every improvement counts as a bad reading: the learning rate is cut, or training "
            "stopped, while the run goes well, and the best value is the first one."
        ),
        remedy='`mode="max"` for metrics that should rise (accuracy, F1, AUC), `mode="min"` for those that should fall',
        source="torch's ReduceLROnPlateau and Lightning's EarlyStopping: both take mode='min' unless told otherwise.",
    )
)

# fmt: off
_RISES = frozenset((
    "acc", "accuracy", "top", "f", "fbeta", "fscore", "precision", "recall", "sensitivity", "specificity", "auc",
    "auroc", "roc", "auprc", "prauc", "ap", "map", "iou", "miou", "jaccard", "dice", "bleu", "rouge", "meteor", "cider",
    "psnr", "ssim", "kappa", "mcc", "matthews", "ndcg", "mrr", "reward", "rewards", "pearson", "spearman",
))
_FALLS = frozenset((
    "mse", "rmse", "rmsle", "mae", "mape", "smape", "nll", "ce", "xent", "crossentropy", "bce", "cer", "wer", "ter",
    "ppl", "perplexity", "fid", "kid", "lpips", "bpd", "bpc", "kl", "kld", "eer", "ece", "brier", "regret",
))
_FALLS_WHATEVER_ELSE = frozenset(("loss", "losses", "err", "error", "errors", "cost"))  # "dice_loss", "acc_error"
_SAYS_NOTHING = frozenset((
    "neg", "negative", "minus", "inv", "inverse", "std", "var", "gap", "drop", "diff", "delta", "ratio", "time",
))
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "eval", "test"))
# fmt: on

_ENOUGH = 8


def better_direction(metric: str) -> str | None:
    """``"max"`` or ``"min"`` if the name of ``metric`` says which is better, else ``None``.

    Example:
        >>> [
        ...     better_direction(name)
        ...     for name in ("val/acc@1", "valLoss", "dice_loss", "neg_acc", "score", "loss_acc_gap")
        ... ]
        ['max', 'min', 'min', None, None, None]
    """
    words = _words(metric)
    if words & _SAYS_NOTHING:
        return None
    if words & _FALLS_WHATEVER_ELSE:
        return "min"
    rises, falls = bool(words & _RISES), bool(words & _FALLS)
    if rises == falls:
        return None
    return "max" if rises else "min"


def contradicts_name(owner: str, monitor: str, mode: str) -> Finding | None:
    """LT505 if ``mode`` is not what the metric's name asks for.

    Args:
        owner: class of the callback that watches, for the message.
        monitor: name of the metric.
        mode: ``"min"`` or ``"max"``.

    Example:
        >>> contradicts_name("EarlyStopping", "val_acc", "min").message
        "EarlyStopping(monitor='val_acc', mode='min'): val_acc is better when it rises"
    """
    better = better_direction(monitor)
    if better is None or better == mode:
        return None
    verb = "rises" if better == "max" else "falls"
    return LT505.finding(
        f"{owner}(monitor={monitor!r}, mode={mode!r}): {monitor} is better when it {verb}",
        where=f"{owner}({monitor})",
        evidence={"monitor": monitor, "mode": mode, "expected": better},
        remedy=f"`{owner}(monitor={monitor!r}, mode={better!r})`.",
    )


def contradicted_modes(owner: str, monitor: str, mode: str, other: str, other_mode: str) -> Finding | None:
    """LT505 if two callbacks watch one metric whose name says nothing, in opposite directions: one of them is wrong.

    Example:
        >>> contradicted_modes("PlateauLR", "score", "min", "EarlyStopping", "max").message
        "PlateauLR waits for score to fall (mode='min'), EarlyStopping for it to rise (mode='max')"
        >>> contradicted_modes("PlateauLR", "score", "max", "EarlyStopping", "max")
    """
    if mode == other_mode or better_direction(monitor) is not None:
        return None
    verb = {"min": "fall", "max": "rise"}
    return LT505.finding(
        f"{owner} waits for {monitor} to {verb[mode]} (mode={mode!r}), {other} for it to {verb[other_mode]} "
        f"(mode={other_mode!r})",
        where=f"{owner}({monitor})",
        evidence={"monitor": monitor, "mode": mode, "other": other, "other_mode": other_mode},
        remedy=f"give {owner} and {other} the same mode.",
    )


def contradicts_observation(
    owner: str, monitor: str, mode: str, readings: Sequence[float], *, is_learning: bool
) -> Finding | None:
    """LT505 if the metric has moved against ``mode`` from its first reading on while the run learns.

    Asked only of metrics whose name says nothing. A warning, not an error: a metric that gets worse from the first
    reading on while the training loss falls may also be over-fitting of an early kind, so it is not proof.

    Args:
        owner: class of the callback that watches.
        monitor: name of the metric.
        mode: ``"min"`` or ``"max"``.
        readings: of the metric, from the first one of the run on.
        is_learning: the training loss has fallen.

    Example:
        >>> contradicts_observation("PlateauLR", "score", "min", [i / 10 for i in range(8)], is_learning=True).message
        "score rose from 0 to 0.7 in 8 readings while the run learns, but PlateauLR has mode='min'"
        >>> contradicts_observation("PlateauLR", "score", "max", [i / 10 for i in range(8)], is_learning=True)
    """
    known = [value for value in readings if math.isfinite(value)]
    if not is_learning or len(known) < _ENOUGH or better_direction(monitor) is not None:
        return None
    sign = 1 if mode == "min" else -1
    worse = [sign * value for value in known]
    if min(worse[1:]) < worse[0] or _concordance(worse) < 0.8:
        return None
    verb, better = ("rose", "max") if mode == "min" else ("fell", "min")
    return LT505.finding(
        f"{monitor} {verb} from {known[0]:.4g} to {known[-1]:.4g} in {len(known)} readings while the run learns, "
        f"but {owner} has mode={mode!r}",
        where=f"{owner}({monitor})",
        severity=Severity.WARNING,
        evidence={"monitor": monitor, "mode": mode, "first": known[0], "last": known[-1], "readings": len(known)},
        remedy=f"if a better model has {'more' if better == 'max' else 'less'} {monitor}: `mode={better!r}`.",
    )


def _words(metric: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", metric)
    # Both spellings of a capital within a word: "valLoss" is two words, "mIoU" is one.
    words = {word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", f"{spaced} {metric}".lower())}
    return words | {word.removeprefix(split) for word in words for split in _SPLITS if word.startswith(split)}


def _concordance(values: Sequence[float]) -> float:
    """Kendall's tau of the values against their order: 1 = each is larger than all before it."""
    pairs = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
    return sum((b > a) - (b < a) for a, b in pairs) / len(pairs)
