"""The judges of one training loss, and what each needs of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.measure import LossCurve, Progress
from lightning_tuning.rules._baseline import Baseline, LossForm
from lightning_tuning.rules._level import is_usable
from lightning_tuning.rules.diverging_loss import DivergenceJudge
from lightning_tuning.rules.loss_spike import SpikeJudge
from lightning_tuning.rules.not_learning import ENOUGH, not_learning
from lightning_tuning.rules.oscillating_loss import OscillationJudge
from lightning_tuning.rules.under_training import under_training

__all__ = ["CurveJudges"]

_EVERY = 50
"""Batches between two looks at whether the run learns."""
_WITHOUT_AN_EPOCH = 2000
"""Batches after which a run is judged in its first epoch."""
_RISING = 1.02
_CERTAIN = 3.0
_CLEARLY = 0.1
"""Of the baseline: a run that is better by so much need not be compared with it any more."""


class CurveJudges:
    """Hears every loss of a run, and says what the rules say.

    Attributes:
        curve: of the whole run.
        form: of the loss; ``None`` while nobody knows it.
        baseline: the best constant answer, if the targets tell.
        leaves: codes that somebody else speaks.
        wants_baseline: the run is not seen to beat it yet.
        is_time: for :meth:`consider`, after the loss that was judged last.
        is_stuck: the run is flat, or worse, after 200 batches.
    """

    def __init__(self) -> None:
        self.curve = LossCurve()
        self.form: LossForm | None = None
        self.baseline: Baseline | None = None
        self.leaves: frozenset[str] = frozenset()
        self.wants_baseline = True
        self.is_time = self.is_stuck = False
        self._spike, self._divergence, self._swing = SpikeJudge(), DivergenceJudge(), OscillationJudge()
        self._rate = self._highest = self._rate_before = 0.0
        self._in_a_row = 0
        self._is_told = self._has_gone_wrong = self._is_beaten = False

    def judge(self, step: int, loss: float, rate: float) -> list[Finding]:
        """Take one loss, with the step and the highest learning rate it was made with."""
        self.is_time = False
        if not is_usable(loss):
            return []
        self._rate = rate
        self._highest = max(self._highest, rate)  # which NaN does not change
        found = [] if "LT807" in self.leaves else [self._spike.judge(step, loss, lr=rate)]
        if self.curve.add(loss) and self.curve.batches % _EVERY == 0:
            self.is_time = True
        if "LT802" not in self.leaves:
            found.append(self._divergence.judge(step, loss))
        found.append(self._swing.judge(loss, self.curve))
        said = [finding for finding in found if finding is not None]
        self._has_gone_wrong = self._has_gone_wrong or any(one.severity >= Severity.WARNING for one in said)
        return said

    def consider(self, progress: Progress, epoch: int) -> Iterator[Finding]:
        """Does it learn? LT801 if it does not, twice in a row."""
        self._know(progress)
        state = progress.state
        self.wants_baseline = not self._is_beaten and state != "learning"
        self.is_stuck = self.curve.batches >= ENOUGH and state in ("flat", "diverging")
        is_rising, self._rate_before = self._rate > _RISING * self._rate_before, self._rate
        is_fair = (epoch > 0 or self.curve.batches >= _WITHOUT_AN_EPOCH) and not is_rising
        finding = self._not_learning() if is_fair else None
        self._in_a_row = 0 if finding is None else self._in_a_row + 1
        if finding is not None and self._in_a_row > 1:
            self._is_told = True
            yield finding

    def close(self, progress: Progress, *, complete: bool) -> Iterator[Finding]:
        """The run is over; ``complete`` if it had all the steps it was meant to have, and generalizes."""
        self._know(progress)
        if "LT807" not in self.leaves and (spike := self._spike.close()) is not None:
            yield spike
        if (finding := self._not_learning()) is not None:
            self._is_told = True
            yield finding
        if complete and not self._is_told:
            late = under_training(self.curve, lr=self._rate, highest_lr=self._highest)
            if late is not None:
                yield late

    def _not_learning(self) -> Finding | None:
        if self._is_told or self._has_gone_wrong or self.form is None or self.curve.batches < ENOUGH:
            return None
        return not_learning(self.curve, self.form, self.baseline)

    def _know(self, progress: Progress) -> None:
        """Tell the gate what the best constant answer is worth, while the net does not beat it."""
        if self.baseline is None:
            return
        beaten = self.baseline.gain > _CERTAIN * self.baseline.error + 1e-9
        progress.trivial = None if beaten else self.baseline.loss
        self._is_beaten = self._is_beaten or (beaten and self.baseline.gain > _CLEARLY * self.baseline.loss)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "curve": self.curve.state_dict(),
            "spike": self._spike.state_dict(),
            "divergence": self._divergence.state_dict(),
            "swing": self._swing.state_dict(),
            "highest": self._highest,
            "in_a_row": self._in_a_row,
            "is_told": self._is_told,
            "has_gone_wrong": self._has_gone_wrong,
            "is_beaten": self._is_beaten,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.curve.load_state_dict(state["curve"])
        self._spike.load_state_dict(state["spike"])
        self._divergence.load_state_dict(state["divergence"])
        self._swing.load_state_dict(state["swing"])
        self._highest, self._in_a_row = state["highest"], state["in_a_row"]
        self._is_told, self._has_gone_wrong = state["is_told"], state["has_gone_wrong"]
        self._is_beaten = state["is_beaten"]
