"""The residual branches of a step: what is added to an identity or a projection of its own input."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import (
    MASKS,
    NORMALIZATIONS,
    RECURRENT_OPS,
    SHAPE_OPS,
    made_of_parameters,
    main_input,
    weight_layers,
)
from lightning_tuning.rules._views import VIEW_OPS, sole_activation, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["ResidualBranch", "residual_branches"]

_IDENTITY = VIEW_OPS | MASKS | {"getitem", "pad"}
"""On a skip: every element is one of the input, or nothing (a stride, zeros for new channels)."""

_BESIDE_PROJECTION = NORMALIZATIONS | {name for name in SHAPE_OPS if "avg_pool" in name}
"""On a skip with a projection, as in ResNet's down-sampling."""

_PASSED = VIEW_OPS | MASKS | {"mul", "div"}
"""Between the last layer of a branch and the sum: what gives zero for zero, and lets a gradient through."""


@dataclasses.dataclass(frozen=True)
class ResidualBranch:
    """One branch; names are those of parameters.

    Attributes:
        where: module path, or source line, of the sum.
        layers: the weights inside, in order of execution.
        switch: the parameter that switches the branch off when it is zero: the weight of its last layer, or the scale
            of a norm behind that; empty if there is none.
        is_norm: ``switch`` is the scale of a norm.
        has_norm: a normalization is in the branch.
        obstacle: why nothing should be changed in it; empty if nothing speaks against it.
    """

    where: str
    layers: tuple[str, ...]
    switch: str = ""
    is_norm: bool = False
    has_norm: bool = False
    obstacle: str = ""


def residual_branches(graph: Graph) -> list[ResidualBranch]:
    """Every residual branch, in order of execution; ask by ``graph.answer(residual_branches)``.

    A sum of two values of one shape, where one is the other's source: the very value, or its reshaping, or (of a branch
    of two layers or more) one 1x1 convolution or linear layer of it. Nothing inside the branch is read elsewhere, which
    leaves out the sums of feature pyramids. Gates, products and means of two ways are no residual branches.
    """
    regions: list[tuple[Op, int, set[int]]] = []
    for op in graph.find("add"):
        if len(op.inputs) != 2 or (graph.losses and not graph.reaches_loss(op)):
            continue
        first, second = op.inputs
        if graph.values[first].shape != graph.values[second].shape or len(graph.values[first].shape) < 2:
            continue
        found = [
            (branch, region)
            for skip, branch in ((first, second), (second, first))
            if (region := _region(graph, op, skip, branch))
        ]
        if len(found) == 1:
            regions.append((op, *found[0]))
    sums = {op.index for op, _, _ in regions}
    return [_describe(graph, op, branch, region, nests=bool(sums & region)) for op, branch, region in regions]


def _region(graph: Graph, add: Op, skip: int, branch: int) -> set[int]:
    """Indices of the operations between the source of ``skip`` and ``branch``, if ``add`` closes a residual branch."""
    above = graph.upstream(graph.values[branch])
    at, is_projected, is_beside = skip, False, False
    while not _leads_to(graph, at, branch, above):
        maker = graph.producer(at)
        if maker is None:
            return set()
        source = sole_activation(graph, maker)
        if maker.name in _BESIDE_PROJECTION:
            is_beside = True
        elif _is_projection(graph, maker) and not is_projected:
            is_projected, source = True, main_input(graph, maker)
        elif maker.name not in _IDENTITY:
            return set()
        if source is None and len(maker.inputs) == 1:  # of the batch itself, which carries no gradient
            source = maker.inputs[0]
        if source is None:
            return set()
        at = source
    region = above & graph.downstream(graph.values[at])
    layers = [op for op in graph.answer(weight_layers) if op.index in region]
    if (is_beside and not is_projected) or len(layers) < (2 if is_projected else 1):
        return set()
    return set() if _leaks(graph, region, add, skip) else region


def _leads_to(graph: Graph, source: int, branch: int, above: set[int]) -> bool:
    if source == branch or source in graph.answer(made_of_parameters):
        return False
    return any(op.index in above for op in graph.consumers(source))


def _leaks(graph: Graph, region: set[int], add: Op, skip: int) -> bool:
    """Whether what is computed inside is read outside as well, or is the skip itself."""
    for index in region:
        for value in graph.ops[index].outputs:
            if value == skip:
                return True
            for reader in graph.consumers(value):
                counts = not graph.losses or graph.reaches_loss(reader)
                if counts and reader.index not in region and reader.index != add.index:
                    return True
    return False


def _is_projection(graph: Graph, op: Op) -> bool:
    if op.name not in ("linear", "conv1d", "conv2d", "conv3d") or op not in graph.answer(weight_layers):
        return False
    return op.name == "linear" or any(
        len(value.shape) >= 3 and math.prod(value.shape[2:]) == 1
        for value in (graph.values[index] for index in op.inputs)
        if value.index in graph.answer(made_of_parameters)
    )


def _describe(graph: Graph, add: Op, branch: int, region: set[int], *, nests: bool) -> ResidualBranch:
    ops = [graph.ops[index] for index in sorted(region)]
    layers = tuple(name for op in ops if op in graph.answer(weight_layers) for name in _matrices(graph, op))
    switch, is_norm, obstacle = _switch(graph, branch, region)
    if nests:
        obstacle = "it holds other residual branches"
    return ResidualBranch(
        where=add.module or add.source_line or "",
        layers=tuple(dict.fromkeys(layers)),
        switch="" if obstacle else switch,
        is_norm=is_norm,
        has_norm=any(op.name in NORMALIZATIONS for op in ops),
        obstacle=obstacle,
    )


def _switch(graph: Graph, branch: int, region: set[int]) -> tuple[str, bool, str]:
    """The parameter that switches the branch off, whether it is a norm's scale, or what stands in the way."""
    for op in way_back(graph, branch, _PASSED):
        if op.index not in region:
            break
        if op.name in NORMALIZATIONS:
            vectors = [name for name in op.parameters if name not in _matrices(graph, op)]
            return (vectors[0], True, "") if vectors else ("", True, "it ends in a normalization without a scale")
        if op in graph.answer(weight_layers):
            if op.name in RECURRENT_OPS:
                return "", False, "it ends in a recurrent layer"
            matrices = _matrices(graph, op)
            return (matrices[0], False, "") if matrices else ("", False, "its last weight is computed from others")
        if op.name in ("mul", "div") and (op.parameters or op.arguments.get("other") == 0):
            return "", False, "it is multiplied by a scale of its own"
        if op.name not in _PASSED:
            return "", False, f"it ends in {op.name!r}"
    return "", False, "it ends in a product or sum of several ways"


def _matrices(graph: Graph, op: Op) -> list[str]:
    values = (graph.values[index] for index in op.inputs)
    return [v.name for v in values if v.kind == "parameter" and v.name is not None and len(v.shape) >= 2]
