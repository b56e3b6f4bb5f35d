"""LT411: a penalty on the weights makes up most of the loss, and what the loss is about is not learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT411", "PenaltyJudge", "PenaltyReading"]

LT411 = register(
    Rule(
        code="LT411",
        name="penalty-dominates",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "An optimizer follows the larger part of the loss: where an L1 or L2 penalty is more than the error "
            "itself, weights are shrunk before they have learned anything, and the loss falls all the while."
        ),
        remedy="lower the penalty's coefficient; for L2: `weight_decay` of AdamW or SGD, out of the loss.",
        source=(
            "Goodfellow et al. 2016, Deep Learning, 7.1; Loshchilov and Hutter 2019, Decoupled Weight Decay "
            "Regularization. Nets that fit their data end with any share of penalty, since their error goes to 0: "
            "therefore it is a warning only where the error has not fallen."
        ),
    )
)

_MOST = 0.5
_SUITABLE = 0.1
_LEARNED = 0.2
_SHRUNK = 0.25
_PERSISTENCE = 3


class PenaltyReading(NamedTuple):
    """The loss of one step.

    Attributes:
        step: of the optimizer.
        penalty: the part that depends on parameters alone.
        error: the rest.
    """

    step: int
    penalty: float
    error: float

    @property
    def share(self) -> float:
        """The penalty's, of both sizes; NaN where there is none.

        Example:
            >>> PenaltyReading(0, penalty=3.0, error=-1.0).share
            0.75
        """
        size = abs(self.penalty) + abs(self.error)
        return abs(self.penalty) / size if math.isfinite(size) and size > 0 else math.nan


class PenaltyJudge:
    """Judges readings that are spread over a run, some ten of them.

    A reading is *bad* if the penalty is more than half of the loss, or was so at first and has been taken down to a
    quarter since (the penalty has won). Three bad ones on end, over 200 steps or a third of the run whichever is less
    and over at least a tenth of it, are LT411: a warning if the error is not a fifth below its first value by then, an
    info if it is.

    Args:
        horizon: optimizer steps of the run; ``None`` where nobody knows.

    Example:
        >>> judge = PenaltyJudge(horizon=1000)
        >>> found = [judge.judge(PenaltyReading(step, penalty=5.0, error=2.3)) for step in (0, 100, 200, 400)]
        >>> [finding and str(finding.severity) for finding in found]
        [None, None, 'warning', 'warning']
    """

    def __init__(self, horizon: int | None = None) -> None:
        self.horizon = horizon
        self._first: PenaltyReading | None = None
        self._bad: list[PenaltyReading] = []

    def judge(self, reading: PenaltyReading, source_line: str | None = None) -> Finding | None:
        """Take one reading; those that are not finite say nothing.

        Args:
            reading: see :class:`PenaltyReading`.
            source_line: where the penalty is made.
        """
        if not (math.isfinite(reading.penalty) and math.isfinite(reading.error)):
            return None
        first = self._first = self._first or reading
        shrunk = first.share > _MOST and abs(reading.penalty) < _SHRUNK * abs(first.penalty)
        if not (reading.share > _MOST or shrunk):
            self._bad = []
            return None
        self._bad = [*self._bad[:1], *self._bad[1:][-_PERSISTENCE:], reading]
        if len(self._bad) < _PERSISTENCE or reading.step - self._bad[0].step < self._long:
            return None
        return self._finding(first, reading, source_line)

    @property
    def _long(self) -> float:
        if self.horizon is None:
            return 400
        return max(min(200, self.horizon / 3), self.horizon / 10)

    def _finding(self, first: PenaltyReading, last: PenaltyReading, source_line: str | None) -> Finding:
        worst = max(self._bad, key=lambda reading: reading.share)
        error = sum(reading.error for reading in self._bad[1:]) / len(self._bad[1:])
        has_learned = first.error - error > _LEARNED * abs(first.error)
        since = self._bad[0].step
        shrunk = "" if last.share > _MOST else f"; it was {first.penalty:.3g} at step {first.step}, and has won"
        factor = abs(worst.error) * _SUITABLE / abs(worst.penalty)
        return LT411.finding(
            f"the penalty on the parameters is {worst.penalty:.3g} of a loss of {worst.penalty + worst.error:.3g} at "
            f"step {worst.step}, {worst.share:.0%}{shrunk}; the rest of the loss went from {first.error:.3g} to "
            f"{error:.3g} by step {last.step}",
            source_line=source_line,
            severity=Severity.INFO if has_learned else Severity.WARNING,
            evidence={
                "penalty_share": worst.share,
                "threshold": _MOST,
                "penalty": last.penalty,
                "error": error,
                "first_error": first.error,
                "since": since,
            },
            remedy=(
                f"multiply its coefficient by {factor:.1g}, which makes it a tenth of the error; L2 is better out of "
                "the loss: `weight_decay` of AdamW or SGD."
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"first": None if self._first is None else list(self._first), "bad": [list(bad) for bad in self._bad]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._first = None if state["first"] is None else PenaltyReading(*state["first"])
        self._bad = [PenaltyReading(*bad) for bad in state["bad"]]
