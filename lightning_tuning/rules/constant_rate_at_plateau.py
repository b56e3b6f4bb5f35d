"""LT508: nothing gets better any more, and the learning rate never comes down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._level import mean_of

__all__ = ["LT508", "PlateauJudge", "is_flat"]

LT508 = register(
    Rule(
        code="LT508",
        name="constant-rate-at-plateau",
        severity=Severity.INFO,
        kind="outcome",
        why=(
            "At a constant rate the weights end up jumping about a minimum, at a distance that the rate sets: more "
            "steps bring them no nearer, a lower rate does."
        ),
        remedy=(
            '`PlateauLR(monitor="val_loss")`, or a schedule that ends with the run: '
            "`CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)`."
        ),
        source="Google tuning playbook, learning rate schedules; Bottou et al. 2018, Optimization Methods, 4.2",
    )
)

_EVEN = 0.01
_WORSE = 0.1
_WORTHWHILE = 0.05
_NEARLY_DONE = 0.05
_NEARLY_PERFECT = 0.98


def is_flat(rates: Sequence[Sequence[float]]) -> bool:
    """Whether each group's learning rates are the same within 1 %.

    Example:
        >>> is_flat([[0.1, 0.1], [1e-3, 1e-3]]), is_flat([[0.1, 0.1, 0.05]]), is_flat([])
        (True, False, True)
    """
    return all(max(group) - min(group) <= _EVEN * abs(max(group)) for group in rates if group)


class PlateauJudge:
    """Judges the validation metrics of a run, reading by reading, as plain floats.

    The run is at a plateau if every metric has gained something since its first reading (a twentieth of it at least);
    has gained no hundredth of that in the last ``patience`` readings, neither by the best of them nor by their mean
    (over that of as many before); and is not getting worse: a net that over-fits has another illness. A loss below a
    twentieth of its first value, or an accuracy of .98, has not much left to gain.

    Args:
        patience: readings without gain.

    Example:
        >>> judge = PlateauJudge(patience=3)
        >>> losses = [2.0, 1.2, 0.81, 0.8, 0.81, 0.8, 0.805, 0.8]
        >>> [judge.add({"val_loss": ("min", loss)}, rates=[0.1]) for loss in losses].index(True)
        7
        >>> judge.finding(step=800).message
        'val_loss has been flat for 3 validations (best 0.81, first 2), and the learning rate is 0.1 to the end'
    """

    def __init__(self, patience: int = 5) -> None:
        self.patience = patience
        self._metrics: dict[str, _Course] = {}
        self._rates: list[float] = []

    def begin(self, values: Mapping[str, tuple[str, float]]) -> None:
        """Take the metrics of the net as it was before its first step, where they were measured."""
        for name, (mode, value) in values.items():
            if name not in self._metrics and math.isfinite(value):
                course = self._metrics[name] = _Course(mode)
                course.first = course.best = value

    def add(self, values: Mapping[str, tuple[str, float]], rates: Sequence[float]) -> bool:
        """Take the readings of one validation.

        Args:
            values: by name, mode (``"min"`` or ``"max"``) and value of each metric whose better direction is known.
            rates: the learning rates of all groups now. Where they have changed, the wait begins anew.

        Returns:
            Whether the run is at a plateau now.
        """
        is_changed = len(rates) != len(self._rates) or not is_flat(list(zip(rates, self._rates, strict=True)))
        if is_changed:
            self._rates = list(rates)
        for name, (mode, value) in values.items():
            course = self._metrics.setdefault(name, _Course(mode))
            course.add(value, self.patience)
            if is_changed:
                course.recent = course.recent[-1:]
        known = [self._metrics[name] for name in values]
        return bool(known) and all(course.is_flat(self.patience) for course in known)

    def finding(self, step: int) -> Finding:
        """LT508; to be asked for at a plateau, where the schedule is flat as well."""
        name, course = next(iter(self._metrics.items()))
        rates = ", ".join(f"{rate:.3g}" for rate in dict.fromkeys(self._rates))
        return LT508.finding(
            f"{name} has been flat for {self.patience} validations (best {course.best:.4g}, first {course.first:.4g}), "
            f"and the learning rate is {rates} to the end",
            evidence={
                "metric": name,
                "best": course.best,
                "first": course.first,
                "validations": self.patience,
                "lr": max(self._rates, default=math.nan),
                "step": step,
            },
            remedy=LT508.remedy.replace("val_loss", name),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        metrics = {name: [c.mode, c.first, c.best, list(c.recent), c.since] for name, c in self._metrics.items()}
        return {"rates": list(self._rates), "metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._rates = list(state["rates"])
        self._metrics = {}
        for name, (mode, first, best, recent, since) in state["metrics"].items():
            course = self._metrics[name] = _Course(mode)
            course.first, course.best, course.recent, course.since = first, best, list(recent), since


class _Course:
    """One metric: its first reading, its best one, how many came since, and the last ones."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.first = self.best = math.nan
        self.recent: list[float] = []
        self.since = 0

    def add(self, value: float, patience: int) -> None:
        if not math.isfinite(value):
            self.recent, self.since = [], 0
            return
        if math.isnan(self.first):
            self.first = self.best = value
        self.recent = [*self.recent[1 - 2 * patience :], value]
        self.since += 1
        if self._sign * (self.best - value) > _EVEN * self._gained:
            self.best, self.since = value, 0

    def is_flat(self, patience: int) -> bool:
        if self.since < patience or len(self.recent) < 2 * patience or not self._gained > _WORTHWHILE * abs(self.first):
            return False
        before, last = mean_of(self.recent[:patience]), mean_of(self.recent[patience:])
        comes_down = self._sign * (before - last) > _EVEN * self._gained
        is_worse = self._sign * (last - self.best) > _WORSE * self._gained
        return not (comes_down or is_worse or self._is_nearly_done)

    @property
    def _sign(self) -> float:
        return 1.0 if self.mode == "min" else -1.0

    @property
    def _gained(self) -> float:
        return self._sign * (self.first - self.best)

    @property
    def _is_nearly_done(self) -> bool:
        if self.mode == "max":
            return self.best >= _NEARLY_PERFECT
        return 0 <= self.best <= _NEARLY_DONE * self.first
