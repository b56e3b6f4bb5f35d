"""LT804: the validation loss rises while the training loss falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import MASKS, weight_layers

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT804", "OverfittingJudge", "Remedies", "Validation", "layer_without_dropout"]

LT804 = register(
    Rule(
        code="LT804",
        name="over-fitting",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "The net learns its training samples by heart: each epoch makes it better at those and worse at all "
            "others. The best weights are those of an epoch that is past."
        ),
        remedy=(
            "keep the best weights: `ModelCheckpoint(monitor=...)` and `EarlyStopping(monitor=...)`; then more or "
            "augmented data, dropout before the widest layer, weight decay, a smaller net."
        ),
        source="Srivastava et al. 2014, Dropout; Prechelt 1998, Early Stopping - But When?",
    )
)

_RISE = 0.1
"""Of the best validation loss, and of all that it had gained: less is noise, or overconfidence alone."""
_FALL = 0.1
"""Of the training loss since the best validation: it goes on learning."""
_GAP, _GAP_HIGH, _HIGH = 0.10, 0.07, 0.9
"""Of the accuracies, and above which accuracy the smaller one is asked for."""
_TIMES = 1.5
"""Validation over training loss, where no accuracy is logged."""
_STILL_BETTER = 0.005
"""Accuracy that is still gained is worth a loss that rises."""


class Validation(NamedTuple):
    """What one validation came to; NaN for what is not known."""

    step: int
    train_loss: float
    val_loss: float
    train_acc: float = math.nan
    val_acc: float = math.nan


class Remedies(NamedTuple):
    """What a run has against over-fitting.

    Attributes:
        layer: module path of the widest linear layer that has no dropout before it; ``""`` where there is none.
        has_decay: the optimizer decays weights.
        has_augmentation: the training data are transformed as they are read.
        stops_early: there is an ``EarlyStopping``.
    """

    layer: str = ""
    has_decay: bool = False
    has_augmentation: bool = False
    stops_early: bool = False

    def missing(self) -> str:
        """What is not there, as advice."""
        offers = {
            "`EarlyStopping(monitor=...)`": not self.stops_early,
            f"`nn.Dropout(0.5)` before `{self.layer}`": bool(self.layer),
            "weight decay (`AdamW(..., weight_decay=0.01)`)": not self.has_decay,
            "augmentation": not self.has_augmentation,
        }
        listed = [offer for offer, is_missing in offers.items() if is_missing]
        return ", ".join(listed) or "more data, or a smaller net"


class OverfittingJudge:
    """Judges the validations of a run, one by one, as plain floats.

    The last ``patience`` validation losses all lie above the best one, and do not come down; on average by a tenth of
    it and of all that had been gained; the training loss fell by a tenth in the same time; and the gap is large: .10 of
    accuracy (.07 above 90 %) where both are logged, else a validation loss of one and a half times the training loss.
    A validation accuracy that still rises clears the run.

    Args:
        patience: see above.

    Example:
        >>> judge = OverfittingJudge(patience=3)
        >>> curve = [(2.0, 2.1), (1.0, 1.2), (0.7, 1.3), (0.5, 1.4), (0.3, 1.6)]
        >>> found = [judge.judge(Validation(100 * i, *losses), Remedies()) for i, losses in enumerate(curve)]
        >>> found[-1].message
        'validation loss rose from 1.2 (step 100) to 1.6 over 3 validations, while training loss fell from 1 to 0.3'
    """

    def __init__(self, patience: int = 5) -> None:
        self.patience = patience
        self._first: float | None = None
        self._best: Validation | None = None
        self._since: list[Validation] = []

    def judge(self, now: Validation, remedies: Remedies, *, is_repeat: bool = True) -> Finding | None:
        """Take a validation; LT804 when enough of them say so.

        Args:
            now: the last one; passed over if a loss is not finite.
            remedies: of the run.
            is_repeat: its training samples had been seen before; new ones (the first epoch) cannot be learned by heart.
        """
        if not (math.isfinite(now.train_loss) and math.isfinite(now.val_loss)):
            return None
        if self._first is None:
            self._first = max(now.val_loss, now.train_loss)
        if self._best is None or now.val_loss <= self._best.val_loss:
            self._best, self._since = now, []
            return None
        if not is_repeat:
            return None
        self._since = [*self._since[1 - 2 * self.patience :], now]
        if len(self._since) < self.patience or not self._is_over_fitting(self._best, self._since[-self.patience :]):
            return None
        best = self._best
        return LT804.finding(
            f"validation loss rose from {best.val_loss:.3g} (step {best.step}) to {now.val_loss:.3g} over "
            f"{len(self._since)} validations, while training loss fell from {best.train_loss:.3g} to "
            f"{now.train_loss:.3g}{_told_gap(self._since[-self.patience :])}",
            remedy=f"keep the weights of step {best.step} (`ModelCheckpoint(monitor=...)`); missing: "
            f"{remedies.missing()}.",
            evidence={
                "val_loss": now.val_loss,
                "best_val_loss": best.val_loss,
                "best_step": best.step,
                "train_loss": now.train_loss,
                "train_loss_at_best": best.train_loss,
            },
        )

    def _is_over_fitting(self, best: Validation, recent: Sequence[Validation]) -> bool:
        val, train = (_mean([getattr(one, name) for one in recent]) for name in ("val_loss", "train_loss"))
        half = len(recent) // 2
        early, late = (_mean([one.val_loss for one in part]) for part in (recent[: half or 1], recent[-(half or 1) :]))
        gained = max(0.0, (self._first or 0.0) - best.val_loss)
        if late < early or val - best.val_loss < _RISE * max(abs(best.val_loss), gained):
            return False
        if best.train_loss - train < _FALL * abs(best.train_loss):
            return False
        if _mean([one.val_acc for one in recent]) > best.val_acc + _STILL_BETTER:
            return False
        gap = _accuracy_gap(recent)
        if gap is not None:
            high = _mean([one.train_acc for one in recent]) > _HIGH
            return gap >= (_GAP_HIGH if high else _GAP)
        return val > _TIMES * train if train > 0 else val - train > _RISE * abs(train)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "first": self._first,
            "best": None if self._best is None else list(self._best),
            "since": [list(one) for one in self._since],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._first = state["first"]
        self._best = None if state["best"] is None else Validation(*state["best"])
        self._since = [Validation(*one) for one in state["since"]]


def layer_without_dropout(graph: Graph) -> str:
    """Module path of the linear layer with the most inputs, if no dropout feeds it; ask by ``graph.answer``."""
    linear = [op for op in graph.answer(weight_layers) if op.name in ("linear", "addmm") and op.inputs]
    if not linear:
        return ""
    widest = max(linear, key=lambda op: graph.values[op.inputs[0]].shape[-1:] or (0,))
    is_there = any(graph.ops[i].name in MASKS and graph.ops[i].arguments.get("p", 0.5) for i in graph.upstream(widest))
    return "" if is_there else widest.module


def _accuracy_gap(recent: Sequence[Validation]) -> float | None:
    """Training over validation accuracy; ``None`` where either is not known."""
    gap = _mean([one.train_acc - one.val_acc for one in recent])
    return None if math.isnan(gap) else gap


def _told_gap(recent: Sequence[Validation]) -> str:
    gap = _accuracy_gap(recent)
    return "" if gap is None else f"; accuracies differ by {gap:.2f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
