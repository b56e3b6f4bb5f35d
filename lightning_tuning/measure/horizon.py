"""How long a run is, counted in epochs, batches, optimizer steps and steps of a scheduler."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Horizon"]


@dataclass(frozen=True)
class Horizon:
    """How long a run is, as far as its set-up says.

    Attributes:
        epochs: of the run at most; ``None`` where only the steps are limited, or nothing is.
        batches: per epoch; ``None`` where the data has no length.
        accumulate: batches per optimizer step.
        max_steps: optimizer steps at most; ``None`` = not limited.
        surely: epochs that pass whatever early stopping does; ``None`` where nothing ends the run early.
    """

    epochs: int | None
    batches: int | None
    accumulate: int = 1
    max_steps: int | None = None
    surely: int | None = None

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps in an epoch; the last batch of an epoch always makes one."""
        return None if self.batches is None else math.ceil(self.batches / self.accumulate)

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole run.

        Example:
            >>> Horizon(epochs=5, batches=10, accumulate=4).steps
            15
        """
        per_epoch = self.steps_per_epoch
        by_epochs = None if self.epochs is None or per_epoch is None else self.epochs * per_epoch
        known = [count for count in (by_epochs, self.max_steps) if count is not None]
        return min(known) if known else None

    @property
    def certain(self) -> Horizon:
        """The part of the run that early stopping cannot cut off."""
        if self.surely is None:
            return self
        epochs = self.surely if self.epochs is None else min(self.epochs, self.surely)
        return Horizon(epochs, self.batches, self.accumulate, self.max_steps)

    def ticks(self, interval: str, frequency: int) -> int | None:
        """How often Lightning steps a scheduler: ``frequency`` counts epochs, or batches within an epoch.

        Example:
            >>> Horizon(epochs=5, batches=10).ticks("step", 1), Horizon(epochs=5, batches=10).ticks("epoch", 2)
            (50, 2)
            >>> Horizon(epochs=5, batches=10, accumulate=4).ticks("step", 3)  # no batch but 4, 8, 10 makes a step
            0
        """
        steps, per_epoch = self.steps, self.steps_per_epoch
        if interval == "epoch":
            if steps is not None and per_epoch:
                return steps // per_epoch // frequency
            return None if self.epochs is None or self.max_steps is not None else self.epochs // frequency
        if steps is None:
            return None
        if frequency == 1:
            return steps
        if self.batches is None or per_epoch is None:
            return None
        ends = [*range(self.accumulate, self.batches, self.accumulate), self.batches]
        hits = [int(end % frequency == 0) for end in ends]
        return steps // per_epoch * sum(hits) + sum(hits[: steps % per_epoch])
