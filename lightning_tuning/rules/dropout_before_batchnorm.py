"""LT301: an active dropout whose output reaches a batch norm on batch statistics."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT301", "Conflict", "dropout_batchnorm_conflicts"]

LT301 = register(
    Rule(
        code="LT301",
        name="dropout-before-batchnorm",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "Dropout changes the variance of what a batch norm sees between training and evaluation, while the batch "
            "norm's running variance is the training one (DenseNet on CIFAR-100 with p=.5: 77.42 -> 68.55 % accuracy). "
            "Wide layers suffer little, so this is advice until the shift is measured."
        ),
        remedy=(
            "move the dropout behind the last batch norm, or set its p to 0: "
            "`Trainer(callbacks=[DropoutBNConflictWarning(on_conflict='disable')])` to try."
        ),
        source="Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization, sections 3-4",
    )
)

DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"})
"""Those that shift a variance; alpha dropout is made to keep mean and variance (Klambauer et al. 2017)."""

BATCH_NORMS = frozenset({"batch_norm", "sync_batch_norm"})

WEIGHT_OPS = frozenset(
    {"linear", "bilinear", "matmul", "mm", "bmm", "addmm", "einsum"}
    | {f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)}
)
ELEMENTWISE_OPS = frozenset(
    """
    add sub rsub mul div truediv neg pow abs sqrt square exp log log1p sin cos where lerp addcmul addcdiv clamp
    maximum minimum masked_fill
    relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish glu softplus softsign
    hardtanh hardswish hardsigmoid tanh sigmoid logsigmoid
    """.split()  # noqa: SIM905  a table reads better than a hundred quotes
)
SHAPE_OPS = frozenset(
    """
    view reshape flatten unflatten squeeze unsqueeze permute transpose t swapaxes swapdims movedim expand repeat
    contiguous clone to float double half bfloat16 type type_as identity cat concat stack hstack vstack tile chunk split
    unbind getitem roll flip index_select gather sum amax
    select narrow pad interpolate upsample pixel_shuffle mean max_pool1d max_pool2d max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    """.split()  # noqa: SIM905
)
_CARRIES_VARIANCE = WEIGHT_OPS | ELEMENTWISE_OPS | SHAPE_OPS | DROPOUTS


@dataclasses.dataclass(frozen=True)
class Conflict:
    """One active dropout and the batch norms that its variance reaches first."""

    dropout: Op
    batch_norms: tuple[Op, ...]

    @property
    def finding(self) -> Finding:
        """The conflict as LT301, naming both ends."""
        p = float(self.dropout.arguments["p"])
        first = self.batch_norms[0]
        more = f" and {len(self.batch_norms) - 1} more" if len(self.batch_norms) > 1 else ""
        return LT301.finding(
            f"dropout (p={p:g}) feeds the batch norm {place(first)}{more} with no normalization between",
            where=self.dropout.module,
            source_line=self.dropout.source_line,
            evidence={
                "p": p,
                "dropout": place(self.dropout),
                "batch_norm": place(first),
                "batch_norm_line": first.source_line or "",
                "batch_norms": len(self.batch_norms),
            },
        )


def place(op: Op) -> str:
    """The module of ``op``, or the source line of a functional call in the LightningModule itself."""
    return f"`{op.module}`" if op.module else f"at {op.source_line}"


def dropout_batchnorm_conflicts(graph: Graph) -> list[Conflict]:
    """Every active dropout whose variance reaches a batch norm on batch statistics.

    That is, through elementwise, weight and shape operations only. On the dataflow, not on registration order:
    functional calls and residual branches count; dropout with p = 0 or behind the last batch norm, batch norms in eval
    mode, and anything behind another normalization do not.
    """
    conflicts = []
    for op in graph.ops:
        if _is_active_dropout(op):
            found = _first_batch_norms(graph, op)
            if found:
                conflicts.append(Conflict(op, found))
    return conflicts


def _is_active_dropout(op: Op) -> bool:
    return op.name in DROPOUTS and 0 < float(op.arguments.get("p", 0)) < 1 and bool(op.arguments.get("training", False))


def _first_batch_norms(graph: Graph, start: Op) -> tuple[Op, ...]:
    found: dict[int, Op] = {}
    seen = {start.index}
    waiting = [start]
    while waiting:
        for child in graph.children(waiting.pop()):
            if child.index in seen:
                continue
            seen.add(child.index)
            if child.name in BATCH_NORMS:
                if child.arguments.get("training", False):
                    found[child.index] = child
            elif child.name in _CARRIES_VARIANCE:
                waiting.append(child)
    return tuple(found[index] for index in sorted(found))
