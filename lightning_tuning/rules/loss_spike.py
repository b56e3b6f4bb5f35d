"""LT807: the training loss jumps, and stays up or comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._level import BROKEN, UsualLoss, falls, is_usable, mean_of

__all__ = ["LT807", "SpikeJudge"]

LT807 = register(
    Rule(
        code="LT807",
        name="loss-spike",
        severity=Severity.INFO,
        kind="outcome",
        why=(
            "A loss that jumps to twice its usual level for steps on end was thrown there by one update: bad batches, "
            "or a learning rate too high. Most runs come back; one that does not has lost what it had learned."
        ),
        remedy=(
            "look at the batches just before it, clip: `Trainer(gradient_clip_val=...)`, or lower the learning rate; "
            "`LossSpikeGuard(action='rollback')` goes back by itself."
        ),
        source=(
            "Chowdhery et al. 2022, PaLM, 5.1 (restart before the spike, skip its batches); MosaicML llm-foundry, "
            "LossSpikeIntervention; Kumar et al. 2025, ZClip"
        ),
    )
)

_GRAVE = 0.5
"""Of what the run has gained; a harder part of the data or a warm restart costs less."""
_LOWER = "the learning rate was too much for it: lower it, or warm it up more slowly; then clip the gradients."


class SpikeJudge:
    """Judges the training losses of a run, one by one, as plain floats of any sign and scale.

    A loss is *high* if it lies above the mean of the usual ones by ``factor - 1`` times that mean's size, by three of
    their standard deviations, and by 1 % of what the run has gained since its start. (So a loss around 0 or below is
    judged by its own noise.) ``patience`` high losses in a row are a spike; it is over when as many in a row are not
    high. Usual are the last ``window`` losses outside of spikes, of a younger run the last half.

    A spike that ended gives LT807 as an info. One that has not ended after ``recovery`` more losses gives it as a
    warning, if the loss does not fall either and half of what the run had gained is lost; all of it, if the learning
    rate had risen by half before (a warm restart or a warm-up). What lasts for a whole window is the new usual, and an
    info.

    Args:
        factor: see above.
        patience: see above.
        window: see above.
        recovery: see above.
        zscore: judge by so many smoothed standard deviations above the smoothed mean (ZClip's measure) instead of
            ``factor`` and the three, and take half of the above for grave: nothing, or half with a risen rate.

    Example:
        >>> judge = SpikeJudge()
        >>> losses = [2.3 - 0.05 * i for i in range(40)] + [0.3, 0.32, 0.28] * 20
        >>> {judge.judge(step, loss) for step, loss in enumerate(losses)}
        {None}
        >>> found = [judge.judge(100 + i, 2.5 + 0.1 * (i % 3)) for i in range(25)]
        >>> found[24].message, str(found[24].severity)
        ('loss rose from 0.3 to 2.6 and has stayed up for 25 steps', 'warning')
    """

    def __init__(
        self,
        factor: float = 2.0,
        patience: int = 5,
        window: int = 200,
        recovery: int = 20,
        zscore: float | None = None,
    ) -> None:
        self.patience = patience
        self.window = window
        self.recovery = recovery
        self._grave = _GRAVE if zscore is None else 0.0
        self._usual = UsualLoss(window, factor, zscore)
        self.drop()

    def drop(self) -> None:
        """The spike under way was undone: its losses say nothing of the run."""
        self._spike: list[float] = []
        self._rates: list[float] = []
        self._began = 0
        self._row = 0
        self._is_spike = self._is_told = False

    @property
    def began(self) -> int | None:
        """The step of the first high loss of the spike, or of what may become one, that is under way."""
        return self._began if self._spike else None

    def judge(self, step: int, loss: float, *, lr: float = math.nan) -> Finding | None:
        """Take one loss.

        Args:
            step: at which the loss was computed.
            loss: of the step. Not finite it is passed over, but in a spike it is the worst of all.
            lr: learning rate of the step, NaN if it is not known.

        Returns:
            LT807 when a spike is over, or does not end; else ``None``.
        """
        if not is_usable(loss):
            if not self._spike:
                return None
            loss = BROKEN
        high = self._usual.is_exceeded_by(loss)
        if not self._spike:
            if not high:
                self._usual.add(loss, lr)
                return None
            self._began = step
        self._row = max(self._row, 0) + 1 if high else min(self._row, 0) - 1
        self._spike.append(loss)
        self._rates.append(lr)
        if self._is_spike:
            return self._follow()
        self._is_spike = self._row >= self.patience
        if not high:  # odd losses, such as this run has
            self._learn(0)
        return None

    def close(self) -> Finding | None:
        """The run is over; LT807 if a spike was under way that nobody was told of."""
        return self._finding(Severity.INFO, "was still up at the end of the run, {} later") if self._untold() else None

    def _follow(self) -> Finding | None:
        """A spike goes on."""
        found = None
        if -self._row >= self.patience:
            if self._untold():
                found = self._finding(Severity.INFO, "was back after {}", over=self._row)
            self._learn(self._row)
        elif len(self._spike) >= self.window:
            if self._untold():
                found = self._finding(Severity.INFO, "has stayed up for {}")
            self._usual.forget()
            self._learn(0)
        elif self._untold() and (len(self._spike) - self.patience) % self.recovery == 0 and self._is_grave():
            found = self._finding(Severity.WARNING, "has stayed up for {}")
            self._is_told = True
        return found

    def _untold(self) -> bool:
        return self._is_spike and not self._is_told

    def _learn(self, since: int) -> None:
        """The losses from that one on are usual, and nothing is under way."""
        for loss, rate in zip(self._spike[since:], self._rates[since:], strict=True):
            if is_usable(loss):
                self._usual.add(loss, rate)
        self.drop()

    def _is_grave(self) -> bool:
        """It does not come back: high, not falling, and most of what the run had gained is lost."""
        level = mean_of(self._spike[-self.recovery :])
        if not self._usual.is_exceeded_by(level) or falls(self._spike[-2 * self.recovery :]):
            return False
        share = self._grave + (_GRAVE if self._usual.rate_rose(self._rates[0]) else 0.0)
        return self._usual.start.share_lost(self._usual.mean, level) >= share

    def _finding(self, severity: Severity, outcome: str, *, over: int | None = None) -> Finding:
        """``over``: where in the losses it was over."""
        spike, before = self._spike[:over], self._usual.mean
        level = mean_of(spike[-self.recovery :]) if severity is Severity.WARNING else max(spike)
        level, rise = (math.inf, "no finite number") if max(spike) == BROKEN else (level, f"{level:.3g}")
        evidence: dict[str, float | int | str] = {
            "loss": level,
            "usual": before,
            "began": self._began,
            "steps": len(spike),
            "share_lost": self._usual.start.share_lost(before, level),
        }
        message = f"loss rose from {before:.3g} to {rise} and {outcome.format(f'{len(spike)} steps')}"
        lr, lr_before = self._rates[0], self._usual.lr
        if not self._usual.rate_rose(lr):
            return LT807.finding(message, evidence=evidence, severity=severity)
        message += f"; the learning rate had risen from {lr_before:.3g} to {lr:.3g}"
        evidence |= {"lr": lr, "lr_before": lr_before}
        remedy = _LOWER if severity is Severity.WARNING else None
        return LT807.finding(message, evidence=evidence, severity=severity, remedy=remedy)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "usual": self._usual.state_dict(),
            "spike": list(self._spike),
            "rates": list(self._rates),
            "began": self._began,
            "row": self._row,
            "is_spike": self._is_spike,
            "is_told": self._is_told,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._usual.load_state_dict(state["usual"])
        self._spike, self._rates = list(state["spike"]), list(state["rates"])
        self._began, self._row = state["began"], state["row"]
        self._is_spike, self._is_told = state["is_spike"], state["is_told"]
