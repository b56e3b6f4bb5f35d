"""LT601: the gradient norm runs away from what is usual in this very run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._bursts import Bursts
from lightning_tuning.rules._rolling import RollingWindow, RunningMoments

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
_HIGHEST_CLIP = 3.0  # medians; the large first norms of a run would make the percentile of a short one
_OF_SPREAD = "the first weight's gradient"
_GROWING = 3.0  # medians; the last finite norm before a NaN that an explosion explains


class ExplosionJudge:
    """Judges one optimizer's gradient norms, step by step, as plain floats.

    A reading *fires*, above the norms that the run began with, if the norm is infinite, or NaN after it had grown; if
    it is more than ``ratio`` times the rolling median; or if it is the fifth outlier among the last twenty (``z``
    deviations above the running mean, ZClip's measure, and half of ``ratio`` medians). So does a first weight whose
    gradient is more than ``spread`` times the last weight's. Three firing readings within a window make a finding: one
    odd batch does not; a warning, where they come in :class:`Bursts`.

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
        self.window, self.ratio, self.z, self.spread, self.settle = window, ratio, z, spread, settle
        self._norms = RollingWindow(window)
        self._moments = RunningMoments(_SMOOTHING)
        self._outliers: list[int] = []
        self._fired: list[int] = []
        self._bursts = Bursts()
        self._where, self._began, self._early, self._last = "", "", 0.0, 0.0
        self._streak = self._seen = 0
        self._clip: float | None = None
        self._usual: dict[str, float] = {}

    def suggested_clip(self) -> float | None:
        """The 90th percentile of the usual norms, at most 3 medians; ``None`` while too few were seen.

        During an explosion it is that of the time before.
        """
        return self._clip if self._fired else self._percentile()

    def _percentile(self) -> float | None:
        settled = len(self._norms) >= self.settle
        return min(self._norms.ninetieth_percentile(), _HIGHEST_CLIP * self._norms.median) if settled else None

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
            step: counts this optimizer's steps.
            norm: global norm before clipping.
            norms: one per parameter.
            names: of the parameters, in the order of the forward pass.
            weights: positions of the weights of two and more dimensions.
            recurrent: the module has recurrent layers, which decides the remedy.
            horizon: steps that the run will have, if known, to tell what is early.

        Returns:
            LT601, or ``None`` while there is nothing to say.
        """
        if self._fired:
            self._fired = [s for s in self._fired if s > step - self.window]
        reason = self._reason(norm)
        where = self._origin(norms, names) if reason and not self._fired else self._where
        if reason is None:
            self._learn(norm, norms, names)
            reason = self._spread(norms, weights)
            where = names[weights[0]] if reason and not self._fired else where
        else:
            self._outlier()
        if reason is None:
            return None
        if not self._fired:
            self._where, self._began, self._clip = where, reason, self._percentile()
        self._fired.append(step)
        self._bursts.add(step)
        if len(self._fired) < self.PERSISTENCE:
            return None
        finding = self._finding(step, norm, recurrent=recurrent, horizon=horizon)
        if norm < math.inf and not (self._bursts.is_on or reason.startswith(_OF_SPREAD)):
            finding = dataclasses.replace(finding, severity=Severity.INFO)
        if len(self._fired) > self.PERSISTENCE:
            return finding
        return dataclasses.replace(finding, count=self.PERSISTENCE, step=self._fired[0])

    def _reason(self, norm: float) -> str | None:
        """Why this is no usual norm; NaN alone, with nothing growing before it, is some other illness."""
        settled = len(self._norms) >= self.settle
        if not math.isfinite(norm):
            grows = self._fired or (settled and self._last > _GROWING * self._norms.median)
            return f"gradient norm is {norm}" if grows or math.isinf(norm) else None
        self._last = norm
        if norm <= self._early:
            return None  # a spike up to where the run began explodes nothing
        if settled and norm > self.ratio * self._norms.median > 0:
            return f"gradient norm {norm:.3g} > {self.ratio:g} x the median {self._norms.median:.3g}"
        if settled and self._is_persistent_outlier(norm):
            return f"gradient norm {norm:.3g} is again {self.z:g} deviations above its mean {self._moments.mean:.3g}"
        return None

    def _spread(self, norms: Sequence[float], weights: Sequence[int]) -> str | None:
        first, last = (norms[weights[0]], norms[weights[-1]]) if len(weights) > 1 else (0.0, 0.0)
        if not first > self.spread * last > 0:
            return None
        return f"{_OF_SPREAD} is {first / last:.3g} > {self.spread:g} x the last one's"

    def _is_persistent_outlier(self, norm: float) -> bool:
        if not (self._moments.is_above(norm, self.z) and norm > self.ratio / 2 * self._norms.median):
            return False
        self._outliers = [*[n for n in self._outliers if n > self._seen - _OUTLIER_WINDOW], self._seen]
        return len(self._outliers) >= _PERSISTENT_OUTLIERS

    def _learn(self, norm: float, norms: Sequence[float], names: Sequence[str]) -> None:
        """This is usual."""
        if not math.isfinite(norm):
            return
        self._streak = 0
        self._norms.add(norm)
        if self._seen == self.settle:
            self._early = self._norms.median
        if self._seen < self.settle or not self._moments.is_above(norm, self.z):
            self._moments.add(norm)
        self._seen += 1
        for name, value in zip(names, norms, strict=True):
            before = self._usual.get(name, value)
            self._usual[name] = before + (1 - _SMOOTHING) * (value - before)

    def _outlier(self) -> None:
        """Outliers are not learned from; but what lasts for a whole window is the new usual, to be learned afresh."""
        self._streak += 1
        if self._streak >= self.window:
            self._streak = self._seen = 0
            self._norms, self._usual = RollingWindow(self.window), {}

    def _finding(self, step: int, norm: float, *, recurrent: bool, horizon: int | None) -> Finding:
        clip, median = self.suggested_clip(), self._norms.median
        evidence: dict[str, float | int | str] = {"grad_norm": norm}
        if self._norms:
            evidence |= {"median": median, "ratio": norm / median if median else math.inf}
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
        if grown := [i for i, factor in enumerate(growth) if factor > self.ratio]:
            return names[grown[-1]]
        finite = [(factor, i) for i, factor in enumerate(growth) if not math.isnan(factor)]
        return names[max(finite)[1]] if finite else ""

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "norms": list(self._norms.values),
            "moments": [self._moments.mean, self._moments.variance],
            "seen": self._seen,
            "outliers": list(self._outliers),
            "fired": list(self._fired),
            "bursts": self._bursts.state_dict(),
            "early": self._early,
            "last": self._last,
            "streak": self._streak,
            "where": self._where,
            "began": self._began,
            "clip": self._clip,
            "usual": dict(self._usual),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._norms.replace(state["norms"])
        self._moments.mean, self._moments.variance = state["moments"]
        self._outliers, self._fired = list(state["outliers"]), list(state["fired"])
        self._bursts.load_state_dict(state["bursts"])
        self._early, self._last, self._streak, self._seen = (state[k] for k in ("early", "last", "streak", "seen"))
        self._where, self._began, self._clip = state["where"], state["began"], state["clip"]
        self._usual = dict(state["usual"])
