"""LT101: the batch itself holds numbers that are not finite."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import HOST_READS, SAME_ELEMENTS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT101", "Row", "is_allowed", "non_finite_input", "tolerated_leaves"]

LT101 = register(
    Rule(
        code="LT101",
        name="non-finite-input",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A NaN that goes into a net comes out of every layer behind it: one such sample makes the loss NaN, and "
            "one update every weight. The data are the first thing to look at when a loss is NaN."
        ),
        remedy=(
            "drop or fill such samples in the Dataset (`torch.nan_to_num(x)`); if they are meant, "
            "`Trainer(callbacks=[TuningSuite(), DataCheck(allow=['batch[1]'])])`."
        ),
        source="IEEE 754: NaN carries through every later sum; Google tuning playbook, on instability",
    )
)

_SHOWN = 8
_ASKS = frozenset(
    {"isnan", "isfinite", "isinf", "isneginf", "isposinf", "nan_to_num", "nanmean", "nansum", "nanmedian"}
)
"""Who asks a tensor whether it is finite expects that it may not be."""


class Row(enum.IntEnum):
    """What one sample holds, as the device tells it: the worst that is in it."""

    FINITE = 0
    NAN = 1
    INF = 2
    MINUS_INF = 3


def non_finite_input(name: str, rows: Sequence[float], batch: int) -> Finding | None:
    """LT101 if a sample of one tensor of the batch is not finite.

    Args:
        name: key path of the tensor, ``"batch[0]"``.
        rows: one :class:`Row` per sample.
        batch: how many batches of the run came before this one.

    Example:
        >>> non_finite_input("batch[0]", [0, 0, 1, 0, 1], 3).message
        'NaN in 2 of 5 samples of batch 3: samples 2, 4'
        >>> non_finite_input("batch[0]", [0, 0], 3)
    """
    bad = [index for index, row in enumerate(rows) if row]
    if not bad:
        return None
    kinds = {Row.NAN: "NaN", Row.INF: "inf", Row.MINUS_INF: "-inf"}
    present = [word for kind, word in kinds.items() if any(row == kind for row in rows)]
    shown = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
    if len(rows) == 1:
        message = f"{' and '.join(present)} in batch {batch}"
    else:
        samples = f"sample{'s' if len(bad) > 1 else ''} {shown}"
        message = f"{' and '.join(present)} in {len(bad)} of {len(rows)} samples of batch {batch}: {samples}"
    return LT101.finding(
        message,
        where=name,
        evidence={
            "kind": ", ".join(present),
            "batch": batch,
            "bad_samples": len(bad),
            "samples": len(rows),
            "first_sample": bad[0],
            "nan_samples": sum(row == Row.NAN for row in rows),
        },
        remedy=LT101.remedy.replace("'batch[1]'", f'"{name}"' if "'" in name else f"'{name}'"),
    )


def is_allowed(name: str, allow: Sequence[str]) -> bool:
    """Whether one of the globs matches the key path; brackets are taken as they stand.

    Example:
        >>> is_allowed("batch['mask']", ["batch['*mask']"]), is_allowed("batch[1]", ["batch[0]"])
        (True, False)
    """
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in allow)


def tolerated_leaves(graph: Graph, names: Sequence[str]) -> set[str]:
    """Those of the batch's tensors of which the step itself takes care, or that no loss depends on.

    Asked for NaN (``isnan``, ``nan_to_num``, ``y == y``), a tensor is expected to hold some; one that the loss does not
    depend on does no harm. Of a step that was not seen whole nothing is tolerated for not being used.
    """
    values = {value.name: value for value in graph.values if value.kind == "batch" and value.name is not None}
    tolerated = set()
    for name in names:
        value = values.get(name)
        if value is None:
            if graph.losses and not graph.blind:
                tolerated.add(name)
            continue
        readers = _readers(graph, value.index)
        asked = any(op.name in _ASKS or (op.name in ("eq", "ne") and len(set(op.inputs)) == 1) for op in readers)
        unused = not graph.blind and bool(graph.losses) and not graph.reaches_loss(value)
        if asked or (unused and not any(op.name in HOST_READS for op in readers)):
            tolerated.add(name)
    return tolerated


def _readers(graph: Graph, start: int) -> list[Op]:
    """Who reads the value, in whatever shape, whole or in pieces."""
    found: dict[int, Op] = {}
    waiting = [start]
    while waiting:
        for op in graph.consumers(waiting.pop()):
            if op.index not in found:
                found[op.index] = op
                if op.name in SAME_ELEMENTS or op.name in ("getitem", "select", "narrow", "unbind", "split", "chunk"):
                    waiting += op.outputs
    return list(found.values())
