"""LT802: the smoothed training loss leaves its minimum behind for good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._level import Start, deviation, is_usable, mean_of

__all__ = ["LT802", "DivergenceJudge"]

LT802 = register(
    Rule(
        code="LT802",
        name="diverging-loss",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "A loss that stays at twice its lowest level moves away from a minimum that it had found: the learning "
            "rate is too high for where the run is now, and every further step makes it worse."
        ),
        remedy=(
            "go back to a checkpoint from before it and lower the learning rate (a third of it to begin with), or let "
            "a schedule lower it; then clip: `Trainer(gradient_clip_val=...)`."
        ),
        source=(
            "Zhang et al. 2021, AUTOTRAINER (oscillating and exploding losses); Google tuning playbook, 'How can "
            "optimization failures be debugged and mitigated?'"
        ),
    )
)

_CERTAIN = 3.0
_GRAVE = 0.5
"""Of what the run has gained; a harder part of the data or a warm restart costs less."""


class DivergenceJudge:
    """Judges the training losses of a run, one by one, as plain floats of any sign and scale.

    They are averaged over ``every`` losses, a *check*. A check is bad if its mean lies above the lowest one by
    ``factor - 1`` times that one's size, by three standard errors, and by half of what the run has gained since its
    start (so that a loss of 1e-6 may double, a loss below 0 is judged by the run's own gain, and neither a warm
    restart nor a harder part of the data is a divergence). ``checks`` bad ones in a row give LT802, unless the loss
    came down over them: that run learns again.

    Args:
        every: losses in a check; 50 by default, whose mean has a seventh of their noise.
        factor: see above.
        checks: see above.

    Example:
        >>> judge = DivergenceJudge(every=10)
        >>> {judge.judge(step, 2.3 - 0.02 * step) for step in range(100)}
        {None}
        >>> found = [judge.judge(step, 0.02 * step) for step in range(100, 150)]
        >>> found[-1].message
        'loss averages 2.89, its minimum was 0.41 at step 90: above twice that for 5 checks of 10 steps'
    """

    def __init__(self, every: int = 50, factor: float = 2.0, checks: int = 5) -> None:
        self.every = every
        self.factor = factor
        self.checks = checks
        self._start = Start()
        self._best = (math.inf, 0.0, 0)
        self.drop()

    def drop(self) -> None:
        """What was bad was undone: its losses say nothing of the run."""
        self._losses: list[float] = []
        self._since = 0
        self._bad: list[tuple[float, float, int]] = []
        self._is_told = False

    @property
    def began(self) -> int | None:
        """The step of the first loss of the first bad check in a row, if the last one was bad."""
        return self._bad[0][2] if self._bad else None

    def judge(self, step: int, loss: float) -> Finding | None:
        """Take one loss.

        Args:
            step: at which the loss was computed.
            loss: of the step; passed over if it is not finite.

        Returns:
            LT802 when enough checks are bad, once until one is good again; else ``None``.
        """
        if not is_usable(loss):
            return None
        self._start.add(loss)
        if not self._losses:
            self._since = step
        self._losses.append(loss)
        if len(self._losses) < self.every:
            return None
        mean = mean_of(self._losses)
        check = mean, deviation(self._losses, mean) / math.sqrt(self.every), self._since
        self._losses = []
        if not self._is_bad(check):
            self._best = min(self._best, check)
            self._bad, self._is_told = [], False
            return None
        self._bad = [*self._bad, check] if len(self._bad) < self.checks else [self._bad[0], *self._bad[2:], check]
        if self._is_told or len(self._bad) < self.checks or self._comes_down():
            return None
        self._is_told = True
        return self._finding()

    def _is_bad(self, check: tuple[float, float, int]) -> bool:
        (mean, error, _), (best, best_error, _) = check, self._best
        if math.isinf(best):
            return False
        doubled, certain = (self.factor - 1) * abs(best), _CERTAIN * math.hypot(error, best_error)
        return mean - best > max(doubled, certain, _GRAVE * self._start.gained(best))

    def _comes_down(self) -> bool:
        """Whether the last check lies below the highest one, in a row of bad ones, by more than chance."""
        (highest, error, _), (last, last_error, _) = max(self._bad), self._bad[-1]
        return highest - last > _CERTAIN * math.hypot(error, last_error)

    def _finding(self) -> Finding:
        (mean, *_), (best, _, at) = self._bad[-1], self._best
        times = "twice that" if self.factor == 2 and best > 0 else "the bound"
        return LT802.finding(
            f"loss averages {mean:.3g}, its minimum was {best:.3g} at step {at}: above {times} for {self.checks} "
            f"checks of {self.every} steps",
            evidence={
                "loss": mean,
                "minimum": best,
                "minimum_at": at,
                "began": self._bad[0][2],
                "share_lost": self._start.share_lost(best, mean),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "start": self._start.state_dict(),
            "losses": list(self._losses),
            "since": self._since,
            "best": list(self._best),
            "bad": [list(check) for check in self._bad],
            "is_told": self._is_told,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._start.load_state_dict(state["start"])
        self._losses, self._since = list(state["losses"]), state["since"]
        mean, error, at = state["best"]
        self._best = mean, error, at
        self._bad = [(mean, error, at) for mean, error, at in state["bad"]]
        self._is_told = state["is_told"]
