"""Which activations of a step are hidden units of a layer, and which softmax is attention; gates and outputs aside."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from lightning_tuning.rules._ops import MASKS, NORMALIZATIONS, WEIGHT_OPS, made_of_parameters, weight_layers
from lightning_tuning.rules._reach import behind_weights
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["ATTENTION", "EXACT", "RECTIFIERS", "SQUASHES", "ActivationLayer", "activation_layers"]

Kind = Literal["rectifier", "squash", "attention"]

RECTIFIERS = frozenset({"relu", "relu6", "clamp", "clamp_min", "threshold", "hardtanh"})
"""Those that cut at 0: see :func:`_cuts_at_zero`."""
EXACT = frozenset({"leaky_relu", "gelu", "silu", "mish"})
"""They let something through below 0; their unit is dead only where it is 0 to the last bit, without a gradient."""
SQUASHES = frozenset({"tanh", "sigmoid"})
ATTENTION = frozenset({"softmax", "scaled_dot_product_attention"})

_WATCHED = RECTIFIERS | EXACT | SQUASHES | ATTENTION
_FEWEST_UNITS = 4
_FEWEST_KEYS = 4
_SCALES = frozenset({"add", "sub", "rsub", "mul", "div"})
_BACK = VIEW_OPS | NORMALIZATIONS | MASKS | _SCALES
_ON = VIEW_OPS | MASKS | _SCALES | NORMALIZATIONS | {"mean", "sum", "unbind", "getitem", "chunk", "split", "topk"}
_GATES = frozenset({"sigmoid", "hardsigmoid", "softmax", "tanh", "softplus", "exp"})
_PRODUCTS = frozenset({"mul", "matmul", "bmm", "einsum", "baddbmm", "addcmul", "lerp", "where", "pow"})
_PICKS = frozenset({"index_select", "masked_select", "take", "take_along_dim", "gather"})


@dataclasses.dataclass(frozen=True)
class ActivationLayer:
    """The units of one layer behind their activation, or one attention.

    Attributes:
        kind: what is to be watched.
        name: of the activation, ``"relu"``.
        where: module of the weight layer that makes the units; of attention the module that runs it.
        source_line: of the activation.
        ops: indices of the operations that are this layer's: several where it is passed several times in a step.
        units: how many it has; of attention the keys.
        dim: the dimension of the units, counted from the end; of attention that of the keys.
        parameter: the nearest one with a number or a row for each unit, whose gradient tells whether it learns.
    """

    kind: Kind
    name: str
    where: str
    source_line: str | None
    ops: tuple[int, ...]
    units: int
    dim: int
    parameter: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two layers the same in two runs of one program, or on two ranks; plain text."""
        return self.kind, self.name, self.where, self.source_line or "", str(self.units), self.parameter or ""


def activation_layers(graph: Graph) -> list[ActivationLayer]:
    """Every layer of hidden units, and every attention, that can be judged; in the order of the step.

    Units are those of one weight layer with a rectifier, tanh or sigmoid behind it, over normalizations, biases and
    changes of shape. Left out are: gates (multiplied with another activation) and the nets that make them, recurrent
    cells, sums of several layers, activations that go to the loss without another weight layer, frozen layers, and what
    runs on samples picked in the step (experts, branches). Of nets that were not seen whole nothing is said.
    """
    if graph.blind:
        return []
    found: dict[tuple[str, ...], ActivationLayer] = {}
    others: set[tuple[str, str, str | None]] = set()
    for op in graph.ops:
        if op.name not in _WATCHED or not op.grad_enabled or not graph.reaches_loss(op):
            continue
        layer = _attention(graph, op) if op.name in ATTENTION else _units(graph, op)
        if layer is None:
            others.add(_stands(op))
            continue
        known = found.get(layer.key)
        found[layer.key] = layer if known is None else dataclasses.replace(known, ops=known.ops + layer.ops)
    return [layer for layer in found.values() if others.isdisjoint(_stands(graph.ops[op]) for op in layer.ops)]


def _stands(op: Op) -> tuple[str, str, str | None]:
    """Where: what shares its place with a gate (the first pass through a cell's loop) is not told from it later."""
    return op.name, op.module, op.source_line


def _units(graph: Graph, op: Op) -> ActivationLayer | None:
    kind: Kind
    if _cuts_at_zero(op) or op.name in EXACT:
        kind = "rectifier"
    elif op.name in SQUASHES:
        kind = "squash"
    else:
        return None
    way = way_back(graph, op.inputs[0], _BACK)
    layer = way[-1] if way else None
    if layer is None or layer.name not in WEIGHT_OPS or layer.index not in graph.answer(_layers):
        return None
    weights = graph.answer(made_of_parameters)
    if not any(graph.values[value].requires_grad for value in layer.inputs if value in weights):
        return None
    place = _unit_dim(graph, op, layer, has_views=any(other.name in VIEW_OPS for other in way))
    if place is None or layer.outputs[0] in graph.answer(_picked):
        return None
    if _goes_to_loss(graph, op) or _is_gate(graph, op) or _makes_gate(graph, op):
        return None
    units, dim = place
    return ActivationLayer(
        kind, op.name, layer.module or op.module, op.source_line, (op.index,), units, dim, _parameter(graph, way, units)
    )


def _cuts_at_zero(op: Op) -> bool:
    a = op.arguments
    if op.name in ("clamp", "clamp_min"):
        most = a.get("max")
        return a.get("min") == 0 and (most is None or most > 0) and len(op.inputs) == 1
    if op.name == "threshold":
        return a.get("threshold") == 0 and a.get("value") == 0
    return op.name in ("relu", "relu6") or (op.name == "hardtanh" and a.get("min_val") == 0)


def _unit_dim(graph: Graph, op: Op, layer: Op, *, has_views: bool) -> tuple[int, int] | None:
    """How many units, and their dimension in what the activation gives, from the end."""
    made, shape = graph.values[layer.outputs[0]].shape, graph.values[op.outputs[0]].shape
    dim = -1 - int(layer.name[-2]) if layer.name.startswith("conv") else -1
    if len(made) < max(2, -dim) or made[dim] < _FEWEST_UNITS:
        return None
    units = made[dim]
    if not has_views and len(shape) >= -dim and shape[dim] == units:
        return units, dim
    fitting = [i - len(shape) for i, size in enumerate(shape) if size == units]
    return (units, fitting[0]) if len(fitting) == 1 else None


def _parameter(graph: Graph, way: list[Op], units: int) -> str | None:
    """The nearest parameter on the way back with one number or row for each unit; shifts and biases before scales."""
    for op in way:
        values = [graph.values[v] for v in op.inputs if graph.values[v].kind == "parameter"]
        for value in sorted(values, key=lambda value: len(value.shape)):
            vectors = [v for v in values if v.shape == (units,) and v.requires_grad]
            if vectors:
                return vectors[-1].name
            if value.requires_grad and sum(size == units for size in value.shape) == 1:
                return value.name
    return None


def _attention(graph: Graph, op: Op) -> ActivationLayer | None:
    if op.name == "softmax":
        shape, dim = graph.values[op.outputs[0]].shape, op.arguments.get("dim")
        if not isinstance(dim, int) or len(shape) < 3 or not _weighs_values(graph, op):
            return None
        dim = dim - len(shape) if dim >= 0 else dim
        keys = shape[dim]
    else:
        shape, dim = graph.values[op.inputs[1]].shape, -1
        keys = shape[-2] if len(shape) >= 3 else 0
    if keys < _FEWEST_KEYS or not any(graph.values[value].requires_grad for value in op.inputs[:2]):
        return None
    return ActivationLayer("attention", op.name, op.module, op.source_line, (op.index,), keys, dim)


def _weighs_values(graph: Graph, softmax: Op) -> bool:
    """Whether the softmax is multiplied, as a matrix, with something else that the net made."""
    weights = graph.answer(made_of_parameters)
    for op in _after(graph, softmax, VIEW_OPS | MASKS | {"mul", "where", "nan_to_num", "masked_fill"}):
        if op.name in ("matmul", "bmm", "einsum", "baddbmm") and len(set(op.inputs)) > 1:
            return not any(value in weights for value in op.inputs)
    return False


def _goes_to_loss(graph: Graph, op: Op) -> bool:
    """Whether a loss is made of it without another weight layer between, so that it is an output, or a penalty's."""
    layers = graph.answer(_layers)
    below = graph.downstream(op, through=lambda other: other.index not in layers)
    made = {value for index in {op.index, *below} - layers for value in graph.ops[index].outputs}
    return any(loss in made for loss in graph.losses)


def _is_gate(graph: Graph, op: Op) -> bool:
    """Whether it is multiplied with another activation."""
    return any(_multiplies(graph, other) for other in _after(graph, op, VIEW_OPS | MASKS | {"add", "sub", "rsub"}))


def _makes_gate(graph: Graph, op: Op) -> bool:
    """Whether a gate, or the weights of an attention, is made of it by one more layer (squeeze-and-excitation)."""
    layers = graph.answer(_layers)
    for head in _after(graph, op, _ON):
        if head.index in layers:
            after = _after(graph, head, _ON)
            if any(gate.name in _GATES and _is_gate(graph, gate) for gate in after):
                return True
    return False


def _multiplies(graph: Graph, op: Op) -> bool:
    if op.name not in _PRODUCTS:
        return False
    weights = graph.answer(made_of_parameters)
    return len({value for value in op.inputs if graph.values[value].requires_grad and value not in weights}) > 1


def _layers(graph: Graph) -> set[int]:
    return {layer.index for layer in graph.answer(weight_layers)}


def _picked(graph: Graph) -> set[int]:
    """Indices of the values made of what a tensor picked out of the net's own: an expert's samples, a branch's."""
    deep = graph.answer(behind_weights)
    found: set[int] = set()
    for op in graph.ops:
        picks = op.name in _PICKS or (op.name == "getitem" and "index" not in op.arguments)
        if any(value in found for value in op.inputs) or (picks and op.inputs and op.inputs[0] in deep):
            found.update(op.outputs)
    return found


def _after(graph: Graph, op: Op, passes: frozenset[str] | set[str]) -> list[Op]:
    """The operations that read it, directly or over those of ``passes``."""
    reached = graph.downstream(op, through=lambda other: other is op or other.name in passes)
    return [graph.ops[index] for index in sorted(reached)]
