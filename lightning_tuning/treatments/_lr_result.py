"""What a learning rate range test came to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lightning_tuning.functional.lr_range import LRSuggestion

__all__ = ["LRRangeResult", "LRTrial"]


@dataclasses.dataclass(frozen=True)
class LRTrial:
    """A short run at one learning rate.

    Attributes:
        rate: that of the group with the largest one.
        before: mean loss of the last half of its batches, with the weights as they were.
        after: mean loss of the same batches as it trained on them; NaN or infinity if it broke.
    """

    rate: float
    before: float
    after: float

    @property
    def has_lowered(self) -> bool:
        """It learned something."""
        return self.after < self.before  # false for NaN


@dataclasses.dataclass(frozen=True)
class LRRangeResult:
    """The losses of a sweep, and what was made of them.

    Attributes:
        rates: of the steps of the sweep, as far as it went.
        losses: of the same steps.
        suggestion: of :func:`~lightning_tuning.functional.suggest_lr`.
        trials: short runs at the suggested rate and, where it did not lower the loss, at thirds of it.
        suggested: the rate that is left of it, ``None`` if there is none.
        before: the rate that the optimizer had.
    """

    rates: list[float]
    losses: list[float]
    suggestion: LRSuggestion
    trials: list[LRTrial]
    suggested: float | None
    before: float

    @property
    def verified(self) -> bool | None:
        """Whether a short run at the suggested rate lowered the loss; ``None`` if none was made."""
        return self.trials[-1].has_lowered if self.trials else None

    @property
    def reason(self) -> str | None:
        """Why no rate is suggested."""
        if self.suggestion.reason is None and self.suggested is None:
            return f"no short run lowered the loss, at {', '.join(f'{trial.rate:.2g}' for trial in self.trials)}"
        return self.suggestion.reason

    def text(self) -> str:
        """The result in half a sentence."""
        if self.suggested is None:
            return f"no learning rate to suggest: {self.reason}"
        low, high = self.suggestion.low or math.nan, self.suggestion.high or math.nan
        told = f"learning rate {self.suggested:.2g}, where the loss falls from {low:.2g} to {high:.2g}"
        if not self.trials:
            return told
        trial = self.trials[-1]
        return f"{told}; a short run took the loss from {trial.before:.3g} to {trial.after:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """In plain types, fit for checkpoints."""
        return {
            **dataclasses.asdict(self),
            "suggestion": self.suggestion._asdict(),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> LRRangeResult:
        """What :meth:`to_dict` wrote."""
        return cls(
            **{
                **state,
                "suggestion": LRSuggestion(**state["suggestion"]),
                "trials": [LRTrial(**trial) for trial in state["trials"]],
            }
        )
