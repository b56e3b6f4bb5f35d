"""LT203: units of one layer that are the same function, and stay so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import RECURRENT_OPS, place, weight_layers
from lightning_tuning.rules._weight_facts import is_whole

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT203", "Duplicates", "duplicate_units", "symmetric_weights"]

LT203 = register(
    Rule(
        code="LT203",
        name="symmetric-weights",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "Units with the same weights compute the same and get the same gradient, as far as the next layer treats "
            "them alike; a layer of a hundred of them is worth one unit."
        ),
        remedy="draw it at random: `nn.init.kaiming_normal_(weight)`, or `Trainer(callbacks=[WeightInitCallback()])`.",
        source="Goodfellow et al. 2016, Deep Learning, section 8.4; Rumelhart et al. 1986, on breaking symmetry",
    )
)

_SAMPLED = 64
"""Elements of each unit that are compared first; only those that agree in these are compared in full."""
_RARE = -20.0
"""Binary logarithm of the expected number of equal pairs below which they are no coincidence."""
_FEWEST = 4


class _Units(NamedTuple):
    """A weight as ``(groups, units, elements)``; of an unknown layout only one that is all constant tells something."""

    name: str
    op: Op
    values: Tensor
    is_known: bool = True


class Duplicates(NamedTuple):
    """Equal units of one weight.

    Attributes:
        name: of the weight.
        op: that applies it.
        units: how many there are, in one group of channels if there are several.
        equal: how many of them have a twin.
        is_output: no other weight layer comes behind it.
    """

    name: str
    op: Op
    units: int
    equal: int
    is_output: bool


def duplicate_units(graph: Graph, parameters: Mapping[str, Tensor]) -> list[Duplicates]:
    """The weights with units that are equal to the last bit, and not by coincidence.

    All-zero units don't count (they start switched off); nor do the channels of different groups of a convolution
    (each has its own input), frozen weights, or products of which nobody knows which dimension is the unit's, unless
    all of the weight is one constant. Equal by coincidence are units of few and coarse elements (1 x 1, or +-1).
    Reads back once which weights are worth a closer look.

    Args:
        graph: of the first step.
        parameters: by the names that they have in the graph; tied ones left out.
    """
    if graph.blind:
        return []
    layers = [op for op in graph.answer(weight_layers) if graph.reaches_loss(op)]
    indices = {op.index for op in layers}
    weights: dict[str, _Units] = {}
    for op in layers:
        for weight in _units(graph, op, parameters):
            weights.setdefault(weight.name, weight)
    suspicious = _suspicious(list(weights.values()))
    found = []
    for weight in weights.values():
        equal = _equal(weight) if weight.name in suspicious else 0
        if equal:
            is_output = not indices & graph.downstream(weight.op)
            found.append(Duplicates(weight.name, weight.op, weight.values.shape[:2].numel(), equal, is_output))
    return found


def symmetric_weights(found: Duplicates) -> Finding:
    """LT203 of ``found``; of an output layer, whose units are told apart by their targets, an info."""
    kind = "output" if found.is_output else "hidden"
    return LT203.finding(
        f"{found.equal} of {found.units} {kind} units have the very same weights ({found.op.name} {place(found.op)})",
        where=found.name,
        severity=Severity.INFO if found.is_output else None,
        evidence={"units": found.units, "equal": found.equal, "layer": found.op.name},
        source_line=found.op.source_line,
    )


def _units(graph: Graph, op: Op, parameters: Mapping[str, Tensor]) -> Iterator[_Units]:
    """The weights of ``op`` that are all here and trained."""
    weights = [
        (position, name, parameters[name].detach())
        for position, name in _weight_inputs(graph, op)
        if name in parameters and parameters[name].requires_grad and is_whole(parameters[name])
    ]
    if op.name in RECURRENT_OPS:
        yield from _recurrent(op, [(name, weight) for _, name, weight in weights])
        return
    for position, name, weight in weights:
        groups = int(op.arguments.get("groups", 1))
        if op.name == "linear" or (op.name.startswith("conv") and "transpose" not in op.name):
            yield _Units(name, op, weight.reshape(groups, weight.shape[0] // groups, -1))
        elif op.name.startswith("conv_transpose"):
            grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
            yield _Units(name, op, grouped.transpose(1, 2).flatten(2))
        elif op.name in ("matmul", "mm", "addmm") and weight.dim() == 2:
            yield _Units(name, op, (weight if position == 0 else weight.t()).unsqueeze(0))  # W @ x, else x @ W
        else:
            yield _Units(name, op, weight.reshape(1, weight.shape[0], -1), is_known=False)


def _weight_inputs(graph: Graph, op: Op) -> Iterator[tuple[int, str]]:
    for position, index in enumerate(op.inputs):
        value = graph.values[index]
        if value.kind == "parameter" and value.name is not None and len(value.shape) >= 2:
            yield position, value.name


def _recurrent(op: Op, weights: list[tuple[str, Tensor]]) -> Iterator[_Units]:
    """A hidden unit has a row in each gate, of the input's and of the state's matrix; all must agree."""
    gates = {"lstm": 4, "gru": 3}.get(op.name.removesuffix("_cell"), 1)
    plain = [(name, weight) for name, weight in weights if "weight_hr" not in name]
    for (name, ours), (_, states) in zip(plain[::2], plain[1::2], strict=False):
        if ours.shape[0] == states.shape[0] and ours.shape[0] % gates == 0:
            rows = torch.cat([ours, states], dim=1)
            yield _Units(name, op, rows.reshape(gates, -1, rows.shape[1]).transpose(0, 1).flatten(1).unsqueeze(0))


def _suspicious(weights: list[_Units]) -> set[str]:
    """Names of the weights that are worth a closer look, with one read for all.

    Weights of one shape are looked at together: the layers of a deep net have few shapes, and one by one they would
    take longer than the step.
    """
    alike: dict[tuple[Any, ...], list[_Units]] = {}
    for weight in weights:
        values = weight.values
        alike.setdefault((weight.is_known, values.shape, values.dtype, values.device), []).append(weight)
    flags = [(_may_repeat if key[0] else _is_one_constant)([w.values for w in some]) for key, some in alike.items()]
    home = next((flag.device for flag in flags if flag.device.type != "cpu"), None)
    read = torch.cat([flag.to(home) for flag in flags]).tolist() if flags else []
    return {weight.name for weight, flag in zip(itertools.chain(*alike.values()), read, strict=True) if flag}


def _is_one_constant(weights: list[Tensor]) -> Tensor:
    """Whether all elements of each weight are equal and not 0, as flags on the device."""
    values = torch.stack(weights).flatten(1)
    return (values == values[:, :1]).all(dim=1) & (values[:, 0] != 0)


def _may_repeat(weights: list[Tensor]) -> Tensor:
    """Whether two units of a group agree in some of their elements, as one flag for each weight, on the device."""
    stride = max(1, weights[0].shape[2] // _SAMPLED)
    bits = _bits(torch.stack([units[..., ::stride][..., :_SAMPLED] for units in weights]))
    factors = torch.arange(1, bits.shape[-1] + 1, device=bits.device) * 6364136223846793005 | 1  # wraps around
    marks = (bits * factors).sum(dim=-1)
    marks = torch.where((bits == 0).all(dim=-1), torch.arange(bits.shape[2], device=bits.device), marks)
    ordered = marks.sort(dim=-1).values
    return (ordered[..., 1:] == ordered[..., :-1]).flatten(1).any(dim=1)


def _bits(values: Tensor) -> Tensor:
    """The elements as integers, so that a sum of them is exact in whatever order."""
    real = torch.view_as_real(values.resolve_conj()).flatten(-2) if values.is_complex() else values
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(real.element_size(), torch.uint8)
    return real.contiguous().view(kind).long()


def _equal(weight: _Units) -> int:
    """How many units have a twin in their group; 0 if that may be a coincidence."""
    units = weight.values
    if not weight.is_known:
        return units.shape[1] if units.numel() >= _FEWEST else 0
    equal = different = 0
    for group in units.cpu():
        nonzero = group[(group != 0).any(dim=1)]
        _, counts = torch.unique(nonzero, dim=0, return_counts=True)
        equal += int(counts[counts > 1].sum())
        different += len(counts)
    all_alike = different == 1 or _is_constant(units)
    is_meant = units.numel() >= _FEWEST and all_alike
    return equal if equal > 1 and (is_meant or not _may_be_chance(units)) else 0


def _is_constant(units: Tensor) -> bool:
    return bool((units == units[0, 0, 0]).all())


def _may_be_chance(units: Tensor) -> bool:
    """Whether so many units of so few distinct values would now and then be equal."""
    different = len(torch.unique(units[0, :_SAMPLED, :_SAMPLED]))
    pairs = len(units) * units.shape[1] ** 2 / 2
    return math.log2(pairs) - units.shape[2] * math.log2(different) > _RARE
