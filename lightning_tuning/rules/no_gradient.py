"""LT603: a trained parameter that never gets a gradient."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import listing

__all__ = ["LT603", "SilenceJudge"]

LT603 = register(
    Rule(
        code="LT603",
        name="no-gradient",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A parameter that never gets a gradient keeps its initial value for good, though an optimizer holds it: "
            "the forward pass does not use it, or what it feeds is always 0 (weights of zeros on both sides, dead "
            "units, an input that is empty)."
        ),
        remedy=(
            "use it in `forward`, or delete it; where weights are all 0: `Trainer(callbacks=[WeightInitCallback()])`; "
            "where it is meant to stay: `parameter.requires_grad_(False)`."
        ),
        source="Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems; Karpathy 2019 (init well)",
    )
)


class SilenceJudge:
    """Knows which parameters of one optimizer have had no gradient since the run began.

    Three things are told apart, all of them only while something else of the same optimizer trains:

    - a *weight* (two dimensions or more) whose gradient is exactly 0 in the first ``zeros`` readings, while another
      parameter of its own module (its bias) gets one: an error. Long enough for what starts behind a zero (LoRA,
      ReZero: one step). Not a bias, whose gradient may be 0 by right (before a batch norm, of an attention's keys);
    - a parameter without any gradient in the first ``absent`` readings, while another of its own module gets one: an
      error. That long, since a branch may be taken rarely;
    - a whole module without one in ``absent`` readings: an info. Nobody may need it (a pooler, an expert), or its share
      of the loss is 0 for now.

    Args:
        weights: by the dotted name of each parameter that the optimizer holds and that asks for gradients, whether it
            has two dimensions or more.
        zeros: see above.
        absent: see above.

    Attributes:
        seen: readings taken.
        silent: names without a gradient so far, and whether the last reading had one of 0.

    Example:
        >>> judge = SilenceJudge({"0.weight": True, "0.bias": False})
        >>> found = [judge.take(("0.weight", "0.bias"), [0.0, 0.3]) for _ in range(10)]
        >>> [finding.where for finding in found[-1]], found[:-1] == [[]] * 9
        (['0.weight'], True)
    """

    def __init__(self, weights: Mapping[str, bool], *, zeros: int = 10, absent: int = 200) -> None:
        self.weights = weights
        self.zeros, self.absent = zeros, absent
        self.seen = 0
        self.silent: dict[str, bool] = dict.fromkeys(weights, False)
        self._names: Sequence[str] = ()
        self._places: dict[str, int] = {}

    @property
    def is_done(self) -> bool:
        """Nothing is left to be said."""
        return not self.silent or self.seen >= self.absent

    @property
    def is_last(self) -> bool:
        """The next reading is the last one: by then it has to be known what was written to by others."""
        return bool(self.silent) and self.seen == self.absent - 1

    @property
    def unused(self) -> list[str]:
        """Names of those that had no gradient at all, not even one of 0."""
        return [name for name, is_zero in self.silent.items() if not is_zero]

    def take(
        self, names: Sequence[str], norms: Sequence[float], *, quiet: Collection[str] = frozenset()
    ) -> list[Finding]:
        """Take one reading.

        Args:
            names: of the parameters that have a gradient.
            norms: theirs.
            quiet: names of which nothing is to be said: frozen by now, moved by somebody else, or explained by another
                rule.
        """
        if self.is_done or not 0 < math.fsum(norms) < math.inf:
            return []  # nobody trains, or nobody knows (a GradScaler looking for its scale)
        if names is not self._names:
            self._names, self._places = names, {name: place for place, name in enumerate(names)}
        self.seen += 1
        for name in list(self.silent):
            place = self._places.get(name)
            if place is not None and norms[place] != 0:
                del self.silent[name]
            else:
                self.silent[name] = place is not None
        if self.seen == self.zeros:
            return self._zeros([name for name in self.silent if name not in quiet])
        if self.seen == self.absent:
            return self._absent([name for name in self.silent if name not in quiet])
        return []

    def _zeros(self, silent: Sequence[str]) -> list[Finding]:
        taught = self._taught()
        accused = [n for n in silent if self.silent[n] and self.weights[n] and _owner(n) in taught]
        if not accused:
            return []
        also = [n for n in silent if self.silent[n] and n not in accused]
        more = f", as that of {listing(also)}" if also else ""
        for name in (*accused, *also):
            self.silent.pop(name)  # said
        return [
            LT603.finding(
                f"the gradient of {listing(accused)} is exactly 0 in all of the first {self.seen} steps{more}, while "
                "the rest of its module trains",
                where=accused[0],
                evidence={"parameters": len(accused) + len(also), "steps": self.seen},
            )
        ]

    def _absent(self, silent: Sequence[str]) -> list[Finding]:
        taught, findings = self._taught(), []
        forgotten = [name for name in silent if not self.silent[name] and _owner(name) in taught]
        if forgotten:
            findings.append(
                LT603.finding(
                    f"{listing(forgotten)}: no gradient in {self.seen} steps, while the rest of the module trains",
                    where=forgotten[0],
                    evidence={"parameters": len(forgotten), "steps": self.seen},
                )
            )
        parts = list(dict.fromkeys(self._part(name) for name in silent if _owner(name) not in taught))
        if parts:
            findings.append(
                LT603.finding(
                    f"{listing(parts)}: no gradient in {self.seen} steps, though an optimizer holds the parameters",
                    where=parts[0],
                    severity=Severity.INFO,
                    evidence={"modules": len(parts), "steps": self.seen},
                    remedy="if nobody needs it: leave it out, or `module.requires_grad_(False)`.",
                )
            )
        return findings

    def _taught(self) -> set[str]:
        """Paths of the modules that own a parameter which gets gradients."""
        return {_owner(name) for name in self.weights if name not in self.silent}

    def _part(self, name: str) -> str:
        """The outermost module around ``name`` of which nothing gets a gradient."""
        trained = [other for other in self.weights if other not in self.silent]
        parts = name.split(".")
        for length in range(1, len(parts)):
            path = ".".join(parts[:length])
            if not any(other.startswith(f"{path}.") for other in trained):
                return path
        return name

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"seen": self.seen, "silent": dict(self.silent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off; parameters that are new are not from its start."""
        self.seen = state["seen"]
        self.silent = {name: zero for name, zero in state["silent"].items() if name in self.weights}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
