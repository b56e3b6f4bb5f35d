"""What WeightInitCallback did, layer by layer."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

__all__ = ["InitReport", "WeightInit"]

_MOST_ROWS = 60


@dataclasses.dataclass(frozen=True)
class WeightInit:
    """One weight that was initialised.

    Attributes:
        name: dotted name of the parameter.
        layer: class of the module that owns it.
        scheme: name of the scheme, or of the user's function.
        gain: factor on the standard deviation; ``None`` for a user's function.
        activation: what the scheme was chosen for (``"relu"``, ``"output"``, ``"recurrent"``); empty if for nothing.
        std_before: standard deviation of the elements.
        std_after: the same, now.
        bias: what the biases of the layer are filled with, in words; empty if they were left.
        variance: of the layer's output on the first batch, before and after ``"lsuv"`` scaled the weight; else
            ``None``.
    """

    name: str
    layer: str
    scheme: str
    gain: float | None
    activation: str
    std_before: float
    std_after: float
    bias: str = ""
    variance: tuple[float, float] | None = None

    def _cells(self) -> tuple[str, ...]:
        scheme = self.scheme if self.gain is None else f"{self.scheme}, gain {self.gain:.3g}"
        stds = f"{self.std_before:.3g} -> {self.std_after:.3g}"
        variance = "-" if self.variance is None else "{:.3g} -> {:.3g}".format(*self.variance)
        return self.name, self.layer, scheme, self.activation or "-", stds, self.bias or "-", variance


@dataclasses.dataclass
class InitReport:
    """Everything that was done; ``str(report)`` is the table.

    Attributes:
        seed: of every draw.
        initialized: in the order of ``named_parameters``.
        left_alone: the other parameters of two dimensions or more, with the reason; and the biases, of layers that were
            initialized, that somebody had set.
        notes: what was done beside that, or could not be: residual branches, layers without unit variance, the
            output's bias.

    Example:
        >>> report = InitReport(seed=1, left_alone={"embed.weight": "embedding"})
        >>> report.initialized.append(WeightInit("net.weight", "Linear", "he", 2**0.5, "relu", 0.2, 0.5, "0"))
        >>> print(report)
        weight initialization (seed 1): 1 weight initialized (he 1), 1 left alone
          weight      layer   scheme         for   std         bias
          net.weight  Linear  he, gain 1.41  relu  0.2 -> 0.5  0
          left alone, embedding: embed.weight
    """

    seed: int
    initialized: list[WeightInit] = dataclasses.field(default_factory=list)
    left_alone: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def row(self, name: str) -> WeightInit:
        """The row of a weight that was initialized."""
        return next(row for row in self.initialized if row.name == name)

    def change(self, name: str, **fields: Any) -> None:
        """Correct the row of a weight that was initialized."""
        place = self.initialized.index(self.row(name))
        self.initialized[place] = dataclasses.replace(self.initialized[place], **fields)

    def headline(self) -> str:
        """One line: how many weights, by which schemes; if none, the main reason."""
        schemes = Counter(weight.scheme for weight in self.initialized)
        by = ", ".join(f"{scheme} {count}" for scheme, count in schemes.items())
        number = len(self.initialized)
        done = f"{number} weight{'' if number == 1 else 's'} initialized" + (f" ({by})" if by else "")
        return f"weight initialization (seed {self.seed}): {done}, {len(self.left_alone)} left alone{self._why()}"

    def _why(self) -> str:
        """The reason why nothing was done, or the most frequent one; empty if something was."""
        if self.initialized or not self.left_alone:
            return ""
        ((reason, count), *others) = Counter(self.left_alone.values()).most_common()
        return f": {f'{count} of them ' if others else ''}{reason}"

    def __str__(self) -> str:
        lines = [self.headline()]
        rows = [weight._cells() for weight in self.initialized[:_MOST_ROWS]]
        if rows:
            rows.insert(0, ("weight", "layer", "scheme", "for", "std", "bias", "output variance"))
            if not any(weight.variance for weight in self.initialized):
                rows = [row[:-1] for row in rows]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines += [
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in rows
            ]
        if more := len(self.initialized) - _MOST_ROWS:
            lines += [f"  and {more} more"] if more > 0 else []
        for reason in dict.fromkeys(self.left_alone.values()):
            names = [name for name, why in self.left_alone.items() if why == reason]
            rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
            lines.append(f"  left alone, {reason}: {', '.join(names[:6])}{rest}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)
