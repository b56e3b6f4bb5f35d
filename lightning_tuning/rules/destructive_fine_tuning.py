"""LT509: fine-tuning destroys what the net had learned before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._level import deviation, is_usable, mean_of

__all__ = ["LT509", "FineTuningJudge"]

LT509 = register(
    Rule(
        code="LT509",
        name="destructive-fine-tuning",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "Trained weights sit in a narrow place; steps of the size that suits fresh ones throw them out of it, and "
            "what is learned afterwards is learned anew, from less data."
        ),
        remedy=(
            "a tenth of the head's learning rate for the backbone, `functional.param_groups(self, lr, "
            "backbone='encoder')`, warm-up over the first steps, or rates that decay from layer to layer toward the "
            "input, `layer_decay=0.65` to `0.95` there."
        ),
        source=(
            "Howard and Ruder 2018, ULMFiT (discriminative rates, warm-up); Mosbach et al. 2021, On the Stability of "
            "Fine-tuning BERT; Clark et al. 2020, ELECTRA (layer-wise decay)"
        ),
    )
)

_KNOWS = 0.5
_RISE = 1.5
_BLOCK = 10
_LASTING = 5
_WITHIN = 200
_WARM_IN = 50
_CERTAIN = 3.0
_WORTH_SAYING = 0.1
_LOST = 0.5
_BEYOND_DOUBT = 0.45


class FineTuningJudge:
    """Judges the first losses of a run whose net knew something before it, one by one, as plain floats.

    A net knew something if its first loss is below half of what a fresh one has (``baseline``, ln K for a
    classification), or if the user says so. The loss to compare with is then the first one; or, where a new head may
    have to learn first, the lowest mean of ten within the first 50. A mean of ten is bad if it lies above 1.5 times it,
    by three standard errors or nearly half of what the net knew, and by a tenth of that. Five bad ones in a row,
    beginning within the first 200 losses (after a head's 50), are LT509, if the loss has not come down by half of its
    rise meanwhile, or half of what the net knew was lost.

    Args:
        baseline: loss of a net that knows nothing; ``None`` where nobody can say.
        is_pretrained: the user says that the net was trained before, or its batch norms do.

    Example:
        >>> judge = FineTuningJudge(baseline=2.3)
        >>> found = [judge.judge(step, 0.2 if step == 0 else 1.9) for step in range(60)]
        >>> next(finding for finding in found if finding).message
        'the loss began at 0.2, where a net that knows nothing has 2.3, and averages 1.9 from step 1 to 50'
    """

    def __init__(self, baseline: float | None = None, *, is_pretrained: bool = False) -> None:
        self.baseline = baseline
        self.is_pretrained = is_pretrained
        self.is_done = False
        self._seen = 0
        self._losses: list[float] = []
        self._since = 0
        self._reference = math.inf
        self._error: float | None = None
        self._bad: list[tuple[float, int]] = []

    @property
    def _settle(self) -> int:
        """Losses in which a new head may still be learning what the backbone knows."""
        return 0 if self._knew else _WARM_IN

    @property
    def _knew(self) -> bool:
        return self.baseline is not None and self._reference < _KNOWS * self.baseline and self._error is None

    def judge(self, step: int, loss: float) -> Finding | None:
        """Take the loss of one batch; those that are not finite are passed over.

        Args:
            step: at which it was computed.
            loss: undivided by accumulation.

        Returns:
            LT509, once; ``None`` otherwise. :attr:`is_done` once there is nothing more to wait for.
        """
        if self.is_done or not is_usable(loss):
            return None
        self._seen += 1
        if self._seen == 1:
            self._reference = loss
            self.is_done = not (self._knew or self.is_pretrained)
            return None
        if not self._losses:
            self._since = step
        self._losses.append(loss)
        if len(self._losses) < _BLOCK:
            return None
        mean = mean_of(self._losses)
        spread = deviation(self._losses, mean)
        self._losses = []
        return self._take(step, mean, spread)

    def _take(self, step: int, mean: float, spread: float) -> Finding | None:
        error = spread / math.sqrt(_BLOCK)
        if not self._knew and self._seen <= _WARM_IN and mean < self._reference:
            self._reference, self._error = mean, error
        rise = mean - self._reference
        certain = _CERTAIN * math.hypot(error, spread if self._error is None else self._error)
        known = 0.0 if self.baseline is None else self.baseline - self._reference
        if known > 0:  # a wild run is noisy: what it has lost is beyond doubt all the same
            certain = min(certain, _BEYOND_DOUBT * known)
        is_bad = rise > max((_RISE - 1) * abs(self._reference), certain, _WORTH_SAYING * known)
        self._bad = [*self._bad, (mean, self._since)] if is_bad else []
        is_late = self._seen >= self._settle + _WITHIN
        if len(self._bad) < _LASTING:
            self.is_done = is_late and not self._bad
            return None
        self.is_done = is_late
        highest = max(bad for bad, _ in self._bad) - self._reference
        if rise < _LOST * highest and not (known > 0 and highest > _LOST * known):
            return None
        self.is_done = True
        return self._finding(step)

    def _finding(self, step: int) -> Finding:
        level = mean_of([mean for mean, _ in self._bad])
        since = self._bad[0][1]
        began = f"the loss began at {self._reference:.3g}"
        if not self._knew:
            began = f"the loss was down to {self._reference:.3g} within {_WARM_IN} steps"
        if self.baseline is not None:
            began += f", where a net that knows nothing has {self.baseline:.3g},"
        return LT509.finding(
            f"{began} and averages {level:.3g} from step {since} to {step}",
            evidence={
                "loss": level,
                "reference": self._reference,
                "ratio": level / self._reference if self._reference else math.inf,
                "threshold": _RISE,
                "since": since,
                **({} if self.baseline is None else {"baseline": self.baseline}),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "baseline": self.baseline,
            "is_pretrained": self.is_pretrained,
            "is_done": self.is_done,
            "seen": self._seen,
            "losses": list(self._losses),
            "since": self._since,
            "reference": self._reference,
            "error": self._error,
            "bad": [list(bad) for bad in self._bad],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.baseline, self.is_pretrained, self.is_done = state["baseline"], state["is_pretrained"], state["is_done"]
        self._seen, self._losses, self._since = state["seen"], list(state["losses"]), state["since"]
        self._reference, self._error = state["reference"], state["error"]
        self._bad = [(mean, since) for mean, since in state["bad"]]
