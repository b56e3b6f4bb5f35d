"""LT601: the gradient norm runs away from what is usual in this very run."""

from __future__ import annotations

import bisect
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT601", "ExplosionJudge"]

LT601 = register(
    Rule(
        code="LT601",
        name="exploding-gradient",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "A gradient far larger than usual throws the weights away from what was learned; the loss rises or becomes "
            "NaN. Judged against the run's own history: healthy nets have norms from .5 (LSTM) to 842 (sum loss), so "
            "'a gradient above 1' says nothing."
        ),
        remedy="clip: `Trainer(gradient_clip_val=...)`, lower the learning rate, or warm it up.",
        source=(
            "Pascanu et al. 2013, On the difficulty of training recurrent neural networks; Kumar et al. 2025, ZClip; "
            "Google tuning playbook, 'How can optimization failures be debugged and mitigated?'"
        ),
    )
)

_PERSISTENT_OUTLIERS = 5
_OUTLIER_WINDOW = 20
_SMOOTHING = 0.97  # ZClip's alpha


class ExplosionJudge:
    """Judges one optimizer's gradient norms, step by step, as plain floats.

    A reading *fires* if the norm is not finite, is more than ``ratio`` times the rolling median, is the fifth outlier
    among the last twenty (``z`` deviations above the running mean, ZClip's measure, and half of ``ratio`` medians), or
    if the first weight's gradient is more than ``spread`` times the last weight's. Three firing readings within a
    window make a finding: one odd batch does not.

    Args:
        window: readings in the rolling median.
        ratio: norm / median that fires.
        z: z-score that makes an outlier.
        spread: first / last layer ratio that fires.
        settle: readings before the median counts.

    Example:
        >>> judge = ExplosionJudge()
        >>> usual = [judge.judge(step, 1.0, [0.6, 0.8], ["0.weight", "2.weight"]) for step in range(30)]
        >>> set(usual)
        {None}
        >>> odd = [judge.judge(30 + i, 400.0, [40.0, 398.0], ["0.weight", "2.weight"]) for i in range(3)]
        >>> odd[2].where, odd[2].evidence["ratio"], odd[2].evidence["suggested_clip"]
        ('2.weight', 400.0, 1.0)
    """

    PERSISTENCE = 3

    def __init__(
        self, window: int = 200, ratio: float = 10.0, z: float = 2.5, spread: float = 70.0, settle: int = 10
    ) -> None:
        self.window = window
        self.ratio = ratio
        self.z = z
        self.spread = spread
        self.settle = settle
        self._norms: list[float] = []
        self._ordered: list[float] = []
        self._mean = self._variance = 0.0
        self._seen = 0
        self._outliers: list[int] = []
        self._fired: list[int] = []
        self._where = self._began = ""
        self._clip: float | None = None
        self._usual: dict[str, float] = {}

    @property
    def median(self) -> float:
        """The usual norm: the median of the window; NaN before the first reading."""
        return self._ordered[len(self._ordered) // 2] if self._ordered else math.nan

    def suggested_clip(self) -> float | None:
        """The 90th percentile of the usual norms, a value to clip at; ``None`` while too few were seen.

        During an explosion it is that of the time before.
        """
        return self._clip if self._fired else self._percentile()

    def _percentile(self) -> float | None:
        return statistics.quantiles(self._ordered, n=10)[-1] if len(self._ordered) >= self.settle else None

    def judge(
        self,
        step: int,
        norm: float,
        norms: Sequence[float],
        names: Sequence[str],
        *,
        weights: Sequence[int] = (),
        recurrent: bool = False,
        horizon: int | None = None,
    ) -> Finding | None:
        """Take one reading.

        Args:
            step: of the reading.
            norm: global norm before clipping.
            norms: one per parameter.
            names: of the parameters, in the order of the forward pass as far as the optimizer has it.
            weights: positions of the weights of two and more dimensions, for the first / last ratio.
            recurrent: the module has recurrent layers; decides the remedy.
            horizon: steps that the run will have, if known; decides what is early.

        Returns:
            LT601, or ``None`` while there is nothing to say.
        """
        reason = self._reason(norm, norms, weights)
        self._fired = [s for s in self._fired if s > step - self.window]
        if reason is not None:
            if not self._fired:
                self._where, self._clip = self._origin(norms, names), self._percentile()
                self._began = reason
            self._fired.append(step)
        finding = None
        if reason is not None and len(self._fired) >= self.PERSISTENCE:
            first = len(self._fired) == self.PERSISTENCE
            finding = self._finding(step, norm, recurrent=recurrent, horizon=horizon)
            finding = dataclasses.replace(finding, count=self.PERSISTENCE if first else 1)
        self._take(norm, norms, names)
        return finding

    def _reason(self, norm: float, norms: Sequence[float], weights: Sequence[int]) -> str | None:
        if not math.isfinite(norm):
            return f"gradient norm is {norm}"
        settled = len(self._ordered) >= self.settle
        if settled and norm > self.ratio * self.median > 0:
            return f"gradient norm {norm:.3g} > {self.ratio:g} x the median {self.median:.3g}"
        if settled and self._is_persistent_outlier(norm):
            return f"gradient norm {norm:.3g} is again {self.z:g} deviations above its running mean {self._mean:.3g}"
        if len(weights) > 1:
            first, last = norms[weights[0]], norms[weights[-1]]
            if last > 0 and first > self.spread * last:
                return f"the first weight's gradient is {first / last:.3g} > {self.spread:g} x the last one's"
        return None

    def _is_persistent_outlier(self, norm: float) -> bool:
        deviation = math.sqrt(self._variance)
        if not (deviation > 0 and norm > self._mean + self.z * deviation and norm > self.ratio / 2 * self.median):
            return False
        self._outliers = [*[n for n in self._outliers if n > self._seen - _OUTLIER_WINDOW], self._seen]
        return len(self._outliers) >= _PERSISTENT_OUTLIERS

    def _take(self, norm: float, norms: Sequence[float], names: Sequence[str]) -> None:
        """Learn what is usual; an outlier counts as the largest usual value: a lasting new level becomes usual."""
        if not math.isfinite(norm):
            return
        if len(self._ordered) >= self.settle and norm > (limit := self.ratio * self.median) > 0:
            norms = [value * limit / norm for value in norms]
            norm = limit
        self._norms.append(norm)
        bisect.insort(self._ordered, norm)
        if len(self._norms) > self.window:
            del self._ordered[bisect.bisect_left(self._ordered, self._norms.pop(0))]
        if self._seen == 0:
            self._mean = norm
        deviation = norm - self._mean
        if self._seen < self.settle or deviation <= self.z * math.sqrt(self._variance):
            self._mean += (1 - _SMOOTHING) * deviation
            self._variance = _SMOOTHING * (self._variance + (1 - _SMOOTHING) * deviation * deviation)
        self._seen += 1
        for name, value in zip(names, norms, strict=True):
            before = self._usual.get(name, value)
            self._usual[name] = before + (1 - _SMOOTHING) * (value - before)

    def _finding(self, step: int, norm: float, *, recurrent: bool, horizon: int | None) -> Finding:
        clip = self.suggested_clip()
        evidence: dict[str, float | int | str] = {"grad_norm": norm}
        if self._ordered:
            evidence |= {"median": self.median, "ratio": norm / self.median if self.median else math.inf}
        if clip is not None:
            evidence["suggested_clip"] = clip
        value = "1.0" if clip is None else f"{clip:.2g}"
        clipping = f"`Trainer(gradient_clip_val={value})`" + ("" if clip is None else ", the 90th percentile so far")
        early = step < 100 if horizon is None else step < 0.1 * horizon
        if recurrent:
            remedy = f"recurrent nets want clipping: {clipping}."
        elif early:
            remedy = f"early in the run: warm the learning rate up or lower it; then clip: {clipping}."
        else:
            remedy = f"clip: {clipping}; or lower the learning rate."
        went_on = "" if math.isfinite(norm) or self._began.endswith(str(norm)) else f", then {norm}"
        return LT601.finding(self._began + went_on, where=self._where, evidence=evidence, remedy=remedy)

    def _origin(self, norms: Sequence[float], names: Sequence[str]) -> str:
        """Where it starts: backward runs from the loss, so the exploding parameter nearest to it."""
        growth = [
            value / usual if (usual := self._usual.get(name, 0.0)) > 0 and math.isfinite(value) else math.nan
            for name, value in zip(names, norms, strict=True)
        ]
        grown = [i for i, factor in enumerate(growth) if factor > self.ratio]
        if grown:
            return names[grown[-1]]
        finite = [(factor, i) for i, factor in enumerate(growth) if not math.isnan(factor)]
        return names[max(finite)[1]] if finite else ""

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "norms": list(self._norms),
            "moments": [self._mean, self._variance],
            "seen": self._seen,
            "outliers": list(self._outliers),
            "fired": list(self._fired),
            "where": self._where,
            "began": self._began,
            "clip": self._clip,
            "usual": dict(self._usual),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._norms = list(state["norms"])
        self._ordered = sorted(self._norms)
        self._mean, self._variance = state["moments"]
        self._seen = state["seen"]
        self._outliers = list(state["outliers"])
        self._fired = list(state["fired"])
        self._where, self._began, self._clip = state["where"], state["began"], state["clip"]
        self._usual = dict(state["usual"])
