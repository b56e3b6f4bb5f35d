"""What is said of the place where a number stopped being finite."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["CAUSES", "Origin", "OriginKind"]

OriginKind = Literal["batch", "weights", "forward", "backward", "not-reproduced"]

CAUSES = {
    "bad-sample": "a sample of the batch was not finite",
    "bad-weights": "parameters or buffers were not finite before the step",
    "log-of-zero": "a logarithm of exactly 0",
    "log-of-negative": "a logarithm of a number below its domain",
    "exp-overflow": "an exponential above what its number format holds",
    "overflow": "a result above what its number format holds",
    "half-overflow": "a result above 65504, the largest number of float16",
    "division-by-zero": "a division by exactly 0",
    "sqrt-at-zero": "the gradient of a square root at 0, which is infinite",
    "norm-at-zero": "the gradient of a norm at the zero vector, which does not exist",
    "pow-domain": "a power outside its domain, or its gradient at 0",
    "trig-domain": "an inverse function outside its domain, or its gradient at the edge",
    "repeated-eigenvalues": "the gradient of eigenvectors or singular vectors where values coincide; it does not exist",
    "masked-softmax": "a softmax over a row that is masked throughout",
    "empty-reduction": "a mean, deviation or the like over too few values",
    "all-targets-ignored": "a loss averaged over targets that are all ignored",
    "where-branch": "a branch that was discarded in the forward pass and still got a gradient (0 * inf)",
    "constant": "a value that was not finite when it was written down, or came from outside torch",
    "unknown-op": "an operation whose domain is not known here",
    "not-reproduced": "repeated, the step was finite",
}
"""Every value of ``Origin.cause``, with what it means; the keys stay, so that tools can rely on them."""


@dataclass(frozen=True)
class Origin:
    """The first place in a training step that turned finite numbers into a number that is not, and that mattered.

    Attributes:
        kind: in what the numbers were lost: the ``"batch"``, the ``"weights"`` (buffers included), the ``"forward"`` or
            ``"backward"`` pass; ``"not-reproduced"`` if the repeated step was finite.
        cause: one of :data:`CAUSES`; stable, for programs.
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

    def sentence(self, *, batch_idx: int | None = None) -> str:
        """The origin in one line, without a full stop.

        Args:
            batch_idx: of the batch, to be named with its bad samples. Default ``None``: not known.

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
            return (
                "the step was finite when it was repeated: it depends on state kept outside the module, on a race or "
                "on a nondeterministic operation"
            )
        count = f"{self.bad} of {self.total} values"
        if self.kind == "batch":
            shown = ", ".join(map(str, self.samples[:8])) + (", ..." if len(self.samples) > 8 else "")
            where = f" in sample{'s' if len(self.samples) > 1 else ''} {shown}" if self.samples else ""
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
        return f"{self.detail or self.op}{node}{place}{line}: {count} became {self.value}"

    def to_dict(self) -> dict[str, Any]:
        """The origin as plain JSON types, without what is not known."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in plain.items() if value not in (None, [], "")}
