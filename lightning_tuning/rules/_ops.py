"""What the operations of a graph are to a rule: weights, norms, activations, mere changes of shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = [
    "ACTIVATIONS",
    "BATCH_NORMS",
    "CARRIES_VARIANCE",
    "DROPOUTS",
    "ELEMENTWISE_OPS",
    "MASKS",
    "NORMALIZATIONS",
    "RECURRENT_OPS",
    "RESHAPES",
    "SHAPE_OPS",
    "WEIGHT_OPS",
    "attribute",
    "made_of_parameters",
    "main_input",
    "output_layers",
    "place",
    "weight_layers",
]

DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"})
"""Those that shift a variance; alpha dropout is made to keep mean and variance (Klambauer et al. 2017)."""

MASKS = DROPOUTS | {"alpha_dropout", "feature_alpha_dropout"}
"""All that drop elements at random."""

BATCH_NORMS = frozenset({"batch_norm", "sync_batch_norm"})

NORMALIZATIONS = BATCH_NORMS | {"instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm"}

RECURRENT_OPS = frozenset(
    {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
)

ACTIVATIONS = frozenset(
    """
    relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish glu softplus softsign threshold
    hardtanh hardswish hardsigmoid hardshrink softshrink tanhshrink tanh sigmoid logsigmoid
    """.split()  # noqa: SIM905
)
"""Nonlinear functions of one element (and of its partner, for ``glu``)."""

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
RESHAPES = frozenset(
    """
    view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose t adjoint swapaxes
    swapdims movedim contiguous clone alias identity to float double half bfloat16 long int type type_as cuda cpu
    """.split()  # noqa: SIM905
)
"""Shape, layout and type: every element of the input is one of the output, and no other is."""

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
CARRIES_VARIANCE = WEIGHT_OPS | ELEMENTWISE_OPS | SHAPE_OPS | DROPOUTS
"""What carries the variance of its input on: no normalization, no loss."""


def place(op: Op) -> str:
    """The module of ``op``, or the source line of a functional call in the LightningModule itself."""
    return f"`{op.module}`" if op.module else f"at {op.source_line}"


def attribute(path: str) -> str:
    """The module at ``path`` as one writes it in the LightningModule: ``self.net[1].drop`` of ``net.1.drop``."""
    return "self" + "".join(f"[{name}]" if name.isdecimal() else f".{name}" for name in path.split(".") if name)


def made_of_parameters(graph: Graph) -> set[int]:
    """Indices of the values that depend on parameters and on nothing else that changes between batches.

    The parameters themselves, and what is computed of them alone (a transposition, weight norm, a cast, a penalty).
    """
    found = {value.index for value in graph.values if value.kind == "parameter" and value.producer is None}
    for op in graph.ops:
        kinds = {graph.values[value].kind for value in op.inputs if value not in found}
        if kinds <= {"constant", "buffer"} and any(value in found for value in op.inputs):
            found.update(op.outputs)
    return found


def weight_layers(graph: Graph) -> list[Op]:
    """Every operation that multiplies something of the batch by a parameter of two dimensions or more, in order.

    Recurrent layers count, and weights that come by way of other operations; a product of two activations, as in
    attention, does not. Ask by ``graph.answer(weight_layers)``.
    """
    weights = graph.answer(made_of_parameters)
    return [
        op
        for op in graph.ops
        if op.name in WEIGHT_OPS | RECURRENT_OPS
        and any(value in weights and len(graph.values[value].shape) >= 2 for value in op.inputs)
        and any(value not in weights for value in op.inputs)
    ]


def output_layers(graph: Graph) -> set[int]:
    """Indices of the weight layers that feed a loss without another one between; ask by ``graph.answer``."""
    layers = [op for op in graph.answer(weight_layers) if graph.reaches_loss(op)]
    before: set[int] = set()
    waiting = [value for op in layers for value in op.inputs]
    while waiting:
        maker = graph.values[waiting.pop()].producer
        if maker is not None and maker not in before:
            before.add(maker)
            waiting += graph.ops[maker].inputs
    return {op.index for op in layers} - before


def main_input(graph: Graph, op: Op) -> int | None:
    """Index of the value that ``op`` is applied to: its first input that is not made of parameters alone."""
    weights = graph.answer(made_of_parameters)
    return next((value for value in op.inputs if value not in weights), None)
