"""What the trace of a training step tells about the initialisation of its weights."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from torch import nn

from lightning_tuning.functional._layers import WeightSlot
from lightning_tuning.functional._recipes import Recipe, recipe_for
from lightning_tuning.trace import Graph, Op
from lightning_tuning.trace._modules import clean_path

__all__ = ["PRODUCTS", "UNSEEN", "Use", "find_use"]


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


PRODUCTS = _names(
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul mm addmm"
)
_NORMALIZE = _names("batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm")
_DROP = _names("dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout")
_POOL = frozenset(f"{how}{kind}_pool{d}d" for how in ("", "adaptive_") for kind in ("avg", "max") for d in (1, 2, 3))
_RESHAPE = _names(
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t movedim contiguous expand chunk split unbind"
    " select narrow getitem cat stack pad to type type_as float half bfloat16 clone view_as reshape_as pixel_shuffle"
    " interpolate"
)
_ELEMENTWISE = _names("add sub mul div neg clamp clamp_min clamp_max")
_PASSED = _NORMALIZE | _DROP | _POOL | _RESHAPE | _ELEMENTWISE
"""What stands between a weight and its activation without being one."""

_SELF_GATED = {"sigmoid": "silu", "tanh": "gelu", "erf": "gelu"}
"""``x * sigmoid(x)`` is SiLU, ``x * (1 + tanh(...x...))`` and ``x * (1 + erf(...x...))`` are GELU, written by hand."""

UNSEEN = "not seen in the first training step"
_LOSSES = frozenset({"softplus", "logsigmoid"})
"""Behind the last weight these are a loss on logits, written by hand."""


@dataclass(frozen=True)
class Use:
    """How the first training step uses a weight.

    Attributes:
        recipe: what suits it.
        fans: fan-in and fan-out where the user's own code applies the parameter; ``None`` where its layer knows.
        blocks: independent matrices along the first dimension, likewise (1, or the groups of a convolution).
    """

    recipe: Recipe
    fans: tuple[float, float] | None = None
    blocks: int = 1


def find_use(graph: Graph, name: str, slot: WeightSlot | None, root: nn.Module) -> Use | str:
    """How ``graph`` uses the weight ``name``; a reason to leave it alone if that cannot be told.

    Args:
        graph: of the first training step.
        name: dotted name of the weight.
        slot: what it is in a layer of a known type; ``None`` if the user's own code applies it.
        root: the module that was traced.
    """
    name = clean_path(name)
    users = [op for op in graph.ops if name in op.parameters]
    if not users:
        return UNSEEN
    product = users[0]
    if product.name not in PRODUCTS:
        return f"its first use is not as a weight but in {product.name!r}"
    use = Use(_recipe_behind(graph, product, root))
    return use if slot is not None else _oriented(graph, product, name, use)


def _recipe_behind(graph: Graph, product: Op, root: nn.Module) -> Recipe:
    """The recipe for the nearest activation behind ``product``; without one LeCun for an output, Xavier elsewhere.

    LeCun, because it is the fan-in that keeps an output's variance at 1: the loss then starts where it should. In
    between, as for the projections of attention, Xavier balances both directions (Vaswani et al.'s choice).
    """
    later = (graph.ops[index] for index in graph.downstream(product))
    is_output = not any(_applies_weight(graph, op) for op in later)
    queue = deque(product.outputs)
    seen = set(queue)
    while queue:
        for op in graph.consumers(queue.popleft()):
            arguments = dict(op.arguments)
            if op.name == "prelu" and op.parameters:
                slopes = next(p for name, p in root.named_parameters() if clean_path(name) == op.parameters[0])
                arguments["negative_slope"] = float(slopes.detach().mean())
            recipe = recipe_for(_SELF_GATED[op.name] if _gates_itself(graph, op, seen) else op.name, arguments)
            if recipe is not None and not (is_output and recipe.activation in _LOSSES):
                return recipe
            if op.name in _PASSED:
                fresh = [value for value in op.outputs if value not in seen]
                seen.update(fresh)
                queue.extend(fresh)
    return Recipe("lecun", 1.0, "output") if is_output else Recipe("xavier", 1.0)


def _gates_itself(graph: Graph, gate: Op, of: set[int]) -> bool:
    """Whether the values ``of`` are multiplied by ``gate`` of themselves."""
    if gate.name not in _SELF_GATED:
        return False
    behind = [
        gate,
        *(graph.ops[i] for i in graph.downstream(gate, through=lambda op: op.name in ("add", "mul", "div"))),
    ]
    made = {value for op in behind for value in op.outputs}
    return any(op.name == "mul" and made & set(op.inputs) and (of - made) & set(op.inputs) for op in behind[1:])


def _applies_weight(graph: Graph, op: Op) -> bool:
    values = (graph.values[index] for index in op.inputs)
    return any(value.kind == "parameter" and len(value.shape) >= 2 for value in values)


def _oriented(graph: Graph, product: Op, name: str, use: Use) -> Use | str:
    """``use`` with the fans of the parameter as ``product`` applies it."""
    values = [graph.values[index] for index in product.inputs]
    place = next(i for i, value in enumerate(values) if value.kind == "parameter" and value.name == name)
    shape = values[place].shape
    if product.name in ("matmul", "mm", "addmm"):
        if len(shape) != 2:
            return f"it is a {len(shape)}-dimensional operand of {product.name!r}"
        rows, columns = map(float, shape)
        return replace(use, fans=(rows, columns) if place == len(values) - 1 else (columns, rows))  # x @ W, else W @ x
    if product.name == "linear" and len(shape) == 2 and place == 1:
        return replace(use, fans=(float(shape[1]), float(shape[0])))
    if product.name in ("conv1d", "conv2d", "conv3d") and place == 1:
        groups: int = product.arguments.get("groups", 1)
        kernel = math.prod(shape[2:])
        return replace(use, fans=(float(shape[1] * kernel), shape[0] / groups * kernel), blocks=groups)
    return f"which of its dimensions is the input of {product.name!r} is not known"
