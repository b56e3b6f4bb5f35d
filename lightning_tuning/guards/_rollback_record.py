"""What one rollback undid and cost, and what came after it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

__all__ = ["RollbackRecord"]


@dataclasses.dataclass
class RollbackRecord:
    """One rollback, watched over the steps that follow it.

    Attributes:
        number: the first of a run is 1.
        reason: what it was for, in a word: the finding's code.
        at_step: ``trainer.global_step`` when it was done.
        to_step: and when the state it went back to was copied.
        undone: updates between the two (or since an earlier rollback to the same state).
        lost_seconds: that they took.
        seconds: that putting back took.
        rates: learning rates before the cut and after it.
        before: losses of the steps that led to the state.
        watch: batches to watch.
        after: losses seen since.
        ended: why watching ended before its time.
        rates_later: learning rates when all were watched.
    """

    number: int
    reason: str
    at_step: int
    to_step: int
    undone: int
    lost_seconds: float
    seconds: float
    rates: tuple[str, str]
    before: list[float]
    watch: int
    after: list[float] = dataclasses.field(default_factory=list)
    ended: str = ""
    rates_later: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there are steps to watch."""
        return not self.ended and len(self.after) < self.watch

    @property
    def is_back(self) -> bool | None:
        """Whether the loss is where it was: the median of what was seen lies not above the range of the losses before.

        ``None`` if there is nothing to compare.

        Example:
            >>> record = RollbackRecord(
            ...     1, "LT701", 9, 5, 4, 0.1, 0.1, ("0.1", "0.05"), [1.0, 2.0], 3, after=[2.5, 1.9, 1]
            ... )
            >>> record.is_back
            True
        """
        if not self.before or not self.after:
            return None
        return statistics.median(self.after) <= max(self.before)

    def see(self, loss: float) -> None:
        """Take the loss of the next batch."""
        if math.isfinite(loss):
            self.after.append(loss)
        else:
            self.close(f"the loss was {loss} again")

    def close(self, why: str) -> None:
        """Stop watching before the time is over."""
        if self.is_open:
            self.ended = f"{why} after {_count(len(self.after), 'batch', 'batches')}"

    def done(self) -> str:
        """What was done, as half a sentence."""
        before, after = self.rates
        return (
            f"went back to the weights of step {self.to_step} ({_count(self.undone, 'step', 'steps')} undone), "
            f"learning rate {before} -> {after}"
        )

    def sentence(self, allowed: int) -> str:
        """All of it, for the closing summary.

        Args:
            allowed: how many rollbacks the run may have.
        """
        cost = f"{self.lost_seconds:.3g} s of training lost, {self.seconds:.2g} s to put back"
        which = f"rollback {self.number} of at most {allowed} at step {self.at_step} ({self.reason})"
        return f"{which}: {self.done()}; {cost}; {self.outcome()}"

    def outcome(self) -> str:
        """What the steps after it were like."""
        said = [self.ended] if self.ended else []
        if self.after and not self.ended:
            missing = "" if len(self.after) == self.watch else f" (of {self.watch} to watch: the run was over)"
            said.append(f"the next {_count(len(self.after), 'batch was', 'batches were')} finite{missing}")
        if self.is_back is not None:
            level = f"median {statistics.median(self.after):.3g}, {statistics.median(self.before):.3g} before"
            said.append(f"the loss is {'back' if self.is_back else 'not back'} at its level ({level})")
        if self.rates_later and self.rates_later != self.rates[1]:
            said.append(f"learning rate now {self.rates_later}")
        return ", ".join(said) or "no batch came after it"

    def state_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {**dataclasses.asdict(self), "rates": list(self.rates)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RollbackRecord:
        """The inverse."""
        first, second = state["rates"]
        return cls(**{**state, "rates": (first, second)})


def _count(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
