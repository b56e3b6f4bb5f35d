"""What is said of the place where a number stopped being finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Origin", "OriginKind"]

OriginKind = Literal["batch", "weights", "forward", "backward", "not-reproduced"]


@dataclass(frozen=True)
class Origin:
    """The first place in a training step that turned finite numbers into a number that is not, and that mattered.

    Attributes:
        kind: in what the numbers were lost: the ``"batch"``, the ``"weights"`` (buffers included), the ``"forward"`` or
            ``"backward"`` pass; ``"not-reproduced"`` if the repeated step was finite.
        cause: a key of :data:`~lightning_tuning.findings.causes.CAUSES`; stable, for programs.
        op: the operation as a person thinks of it (``"log"``); in the backward pass the one whose gradient it is.
        aten: torch's own name of what ran (``"aten::log_"``).
        module: dotted path of the innermost module that was running; ``""`` is the LightningModule itself.
        source_line: ``"losses.py:31"``, the user's line.
        detail: the offending value: ``"log of 0.0"``, ``"exp of 91.2 in float32 (largest: 88.72)"``.
        input_min: smallest finite number that went in; ``None`` if there was none.
        input_max: the largest.
        shape: of the tensor that is not finite.
        bad: how many of its values are not.
        total: how many it has.
        value: what they mostly became: ``"NaN"``, ``"inf"`` or ``"-inf"``.
        node: the autograd node (``"SqrtBackward0"``), in the backward pass.
        names: of the batch's tensor (``"batch['image']"``), or of the parameters and buffers.
        samples: for a batch, the bad indices along the first dimension.
        tries: how often the step was repeated to find it.
    """

    kind: OriginKind
    cause: str
    op: str | None = None
    aten: str | None = None
    module: str | None = None
    source_line: str | None = None
    detail: str = ""
    input_min: float | None = None
    input_max: float | None = None
    shape: tuple[int, ...] = ()
    bad: int = 0
    total: int = 0
    value: str | None = None
    node: str | None = None
    names: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    tries: int = 1

    def sentence(
        self, *, batch_idx: int | None = None, dataset_indices: Sequence[int] = (), dataset_doubt: str = ""
    ) -> str:
        """The origin in one line, without a full stop.

        Args:
            batch_idx: of the batch, to be named with its bad samples. Default ``None``: not known.
            dataset_indices: of the bad samples, in their order. Default: not known.
            dataset_doubt: why they may not be just those. Default: they are.

        Example:
            >>> Origin(
            ...     "forward",
            ...     "log-of-zero",
            ...     "log",
            ...     module="head",
            ...     source_line="losses.py:31",
            ...     detail="log of 0.0",
            ...     bad=3,
            ...     total=640,
            ...     value="-inf",
            ... ).sentence()
            'log of 0.0 at head (losses.py:31): 3 of 640 values became -inf'
            >>> Origin(
            ...     "batch", "bad-sample", names=("batch['x']",), samples=(4, 9), bad=2, total=64, value="NaN"
            ... ).sentence()
            "batch['x'] holds NaN in samples 4, 9: 2 of 64 values"
        """
        if self.kind == "not-reproduced":
            often = "when it was repeated" if self.tries == 1 else f"all {self.tries} times that it was repeated"
            return (
                f"the step was finite {often}: it depends on state kept outside the module, on a race, on a "
                "nondeterministic operation or on failing hardware"
            )
        count = f"{self.bad} of {self.total} values"
        if self.kind == "batch":
            where = self._which_samples(dataset_indices, dataset_doubt)
            if batch_idx is not None:
                where += f" {'of' if where else 'in'} batch {batch_idx}"
            return f"{self.names[0]} holds {self.value}{where}: {count}"
        if self.kind == "weights":
            more = f" and {len(self.names) - 3} more" if len(self.names) > 3 else ""
            first = " of the first" if len(self.names) > 1 else ""
            return f"not finite before the step: {', '.join(self.names[:3])}{more} ({count}{first} are {self.value})"
        place = f" at {self.module}" if self.module else ""
        line = f" ({self.source_line})" if self.source_line else ""
        node = f" in {self.node}" if self.node and self.node not in self.detail else ""
        again = f", in the last of {self.tries} repetitions alone" if self.tries > 1 else ""
        return f"{self.detail or self.op}{node}{place}{line}: {count} became {self.value}{again}"

    def _which_samples(self, dataset_indices: Sequence[int], dataset_doubt: str) -> str:
        """`` in samples 4, 9 (dataset indices 1032, 77)``; nothing where the samples are not known."""
        if not self.samples:
            return ""
        doubt = f", {dataset_doubt}" if dataset_doubt else ""
        kind = "indices" if len(dataset_indices) > 1 else "index"
        indices = f" (dataset {kind} {_listed(dataset_indices)}{doubt})" if dataset_indices else ""
        return f" in sample{'s' if len(self.samples) > 1 else ''} {_listed(self.samples)}{indices}"

    def to_dict(self) -> dict[str, Any]:
        """The origin as plain JSON types, without what is not known."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in plain.items() if value not in (None, [], "")}


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
