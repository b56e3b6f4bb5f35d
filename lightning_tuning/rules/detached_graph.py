"""LT414: trained weights whose results reach the loss, while the gradient does not find the way back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._gradient_cuts import Echoes, gradient_cuts
from lightning_tuning.rules._gradient_reach import CUTS, READS, gradient_reach

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT414", "Cut", "detached"]

LT414 = register(
    Rule(
        code="LT414",
        name="detached-graph",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "These weights are in an optimizer and are used, but between them and the loss the graph is cut, so they "
            "stay what they were drawn as: the rest of the net learns on top of random features."
        ),
        remedy=(
            "take the cut out; or, if it is meant, say so: `module.requires_grad_(False)`, and give the optimizer only "
            "`[p for p in self.parameters() if p.requires_grad]`."
        ),
        source="Humbatova et al. 2020, Taxonomy of Real Faults; torch.autograd's notes on detach and no_grad",
    )
)


_AS_WRITTEN = {
    **{name: f"`.{name}()`" for name in ("detach", "item", "numpy", "tolist")},
    **{name: f"`torch.{name}(...)`" for name in ("tensor", "as_tensor")},
    "data": "`.data`",
    "no_grad": "`torch.no_grad()`",
}


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where the gradient of some trained parameters is lost.

    Attributes:
        op: the operation after which there is no gradient any more; the first of several.
        reader: the first one that goes on with what is cut off; ``None`` if that is the loss itself.
        parameters: dotted names of those that lose their gradient here.
        is_deliberate: a whole module runs without gradients, as a feature extractor does.
        where: dotted path of the module that the parameters are of.
    """

    op: Op
    reader: Op | None
    parameters: tuple[str, ...]
    is_deliberate: bool
    where: str

    @property
    def finding(self) -> Finding:
        """The cut as LT414: an error, or an info where it looks as if it was meant."""
        what = _AS_WRITTEN.get(_name_of(self.op), f"`{_name_of(self.op)}`")
        whose = f"`{self.where}`" if self.where else "the module's own weights"
        owners = dict.fromkeys(name.rpartition(".")[0] for name in self.parameters)
        apart = [owner for owner in owners if not f"{owner}.".startswith(f"{self.where}.")] if self.where else []
        whose += f" and {len(apart)} more module{'s' if len(apart) > 1 else ''}" if apart else ""
        count = f"{len(self.parameters)} trainable parameter{'s' if len(self.parameters) > 1 else ''}"
        into = "the loss" if self.reader is None else f"{self.reader.name} at {self.reader.source_line}"
        return LT414.finding(
            f"{what} cuts {whose} ({count}) off from the gradient, while the results go on into {into}",
            where=self.where,
            source_line=self.op.source_line,
            severity=Severity.INFO if self.is_deliberate else None,
            evidence={
                "cut": _name_of(self.op),
                "parameters": len(self.parameters),
                "first_parameter": self.parameters[0],
                "goes_into": into,
            },
        )


def detached(graph: Graph, trained: Collection[str], echoes: Echoes | None = None) -> list[Cut]:
    """Where the gradient of parameters is lost that an optimizer holds and the step has used.

    Not meant are parameters that get a gradient some other way in the step, and what is cut off and then only compared
    with (targets of teachers, of value and momentum nets) or joined to what carries a gradient (straight-through,
    stopped branches). What counts is that a layer which learns reads it as its input, that it is added to the loss, or
    that it is the loss.

    Args:
        graph: of the step.
        trained: dotted names of the parameters that require gradients and are in an optimizer.
        echoes: of operations that read a number, by index: the operations in which that very number came back.
    """
    reach = graph.answer(gradient_reach)
    used = dict.fromkeys(name for op in graph.ops for name in op.parameters)
    lost = [name for name in used if name in trained and name not in reach.parameters]
    if not graph.losses or not lost:
        return []
    cuts = gradient_cuts(graph, reach.values, echoes or {})
    starts: dict[str, list[int]] = {}
    for value in graph.values:
        if value.kind == "parameter" and value.name is not None and value.index in cuts:
            starts.setdefault(value.name, []).append(value.index)
    groups: dict[tuple[int, str], list[tuple[int, str]]] = {}
    for name in lost:
        if name in starts:
            reader, op = min(cuts[index] for index in starts[name])
            groups.setdefault((reader, _name_of(graph.ops[op])), []).append((op, name))
    return [_cut(graph, reader, group, lost, trained) for (reader, _), group in groups.items()]


def _cut(
    graph: Graph, reader: int, group: list[tuple[int, str]], lost: Collection[str], trained: Collection[str]
) -> Cut:
    names = tuple(name for _, name in group)
    op = graph.ops[min(op for op, _ in group)]
    return Cut(
        op=op,
        reader=graph.ops[reader] if reader < len(graph.ops) else None,
        parameters=names,
        is_deliberate=_is_deliberate(graph, op, names, lost, trained),
        where=_module_of(names, [name for name in trained if name not in names]),
    )


def _name_of(op: Op) -> str:
    return op.name if op.name in CUTS | READS else "no_grad"


def _is_deliberate(
    graph: Graph, cut: Op, names: Collection[str], lost: Collection[str], trained: Collection[str]
) -> bool:
    """Whole modules without gradients, or in eval mode: a feature extractor whose weights nobody froze."""
    modules = {name.rpartition(".")[0] for name in names}
    users = [op for op in graph.ops if any(name in op.parameters for name in names)]
    if "" in modules:
        return False
    if not any(op.training for op in users):
        return True
    siblings = [name for name in trained if name.rpartition(".")[0] in modules]
    return (
        _name_of(cut) == "no_grad"
        and not any(op.grad_enabled for op in users)
        and all(name in lost for name in siblings)
    )


def _module_of(names: Sequence[str], others: Collection[str]) -> str:
    """The outermost module that holds all of ``names`` and none of ``others``; if there is none, that of the first."""
    paths = [name.split(".")[:-1] for name in names]
    common = list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    for depth in range(1, len(common) + 1):
        path = paths[0][:depth]
        if not any(name.split(".")[:depth] == path for name in others):
            return ".".join(path)
    return ".".join(paths[0])
