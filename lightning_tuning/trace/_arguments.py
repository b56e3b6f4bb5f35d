"""The arguments of a torch function by name: Python functions tell theirs, those written in C are listed here."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

__all__ = ["bind"]

_LONGEST = 8
"""Sequences longer than this (a list of split sizes) say nothing that a rule could use."""

_BUILTINS = """
dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout: input p=0.5 training=True
batch_norm: input weight bias running_mean running_var training momentum eps cudnn_enabled
instance_norm: input weight bias running_mean running_var use_input_stats momentum eps cudnn_enabled
layer_norm: input normalized_shape weight=None bias=None eps=1e-05 cudnn_enabled
group_norm: input num_groups weight=None bias=None eps=1e-05 cudnn_enabled
rms_norm: input normalized_shape weight=None eps=None
softmax log_softmax: input dim dtype
linear: input weight bias=None
bilinear: input1 input2 weight bias=None
conv1d conv2d conv3d: input weight bias=None stride=1 padding=0 dilation=1 groups=1
conv_transpose1d conv_transpose2d conv_transpose3d: input weight bias=None stride=1 padding=0 output_padding=0 groups=1
convolution: input weight bias stride padding dilation transposed output_padding groups
embedding: weight input padding_idx=-1 scale_grad_by_freq=False sparse=False
scaled_dot_product_attention: query key value attn_mask=None dropout_p=0.0 is_causal=False scale=None enable_gqa=False
lstm gru rnn_tanh rnn_relu: input hx params has_biases num_layers dropout training bidirectional batch_first
gelu: input approximate='none'
softplus: input beta=1 threshold=20
prelu: input weight
hardshrink softshrink: input lambd=0.5
leaky_relu: input negative_slope=0.01
elu: input alpha=1.0
rrelu: input lower=0.125 upper=0.3333333333333333 training=False
hardtanh: input min_val=-1.0 max_val=1.0
threshold: input threshold value
clamp: input min=None max=None
clamp_min: input min
clamp_max: input max
avg_pool1d avg_pool2d avg_pool3d: input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True
max_pool1d max_pool2d max_pool3d: input kernel_size stride=None padding=0 dilation=1 ceil_mode=False
adaptive_avg_pool1d adaptive_max_pool1d: input output_size
adaptive_max_pool2d adaptive_max_pool3d: input output_size return_indices=False
sum mean prod nansum nanmean logsumexp amax amin std var median any all: input dim=None keepdim=False
max min argmax argmin: input dim=None keepdim=False
cumsum cumprod sort argsort: input dim=-1
topk: input k dim=-1
norm linalg_norm linalg_vector_norm: input ord=None dim=None keepdim=False
cat stack: tensors dim=0
split: input split_size dim=0
chunk: input chunks dim=0
unbind: input dim=0
transpose: input dim0 dim1
movedim: input source destination
flatten: input start_dim=0 end_dim=-1
unflatten: input dim sizes
squeeze: input dim=None
unsqueeze: input dim
select: input dim index
narrow: input dim start length
gather index_select: input dim index
scatter scatter_add index_add: input dim index src
masked_fill: input mask value
where: condition input other
roll: input shifts dims=None
view reshape: input *shape
view_as expand_as reshape_as: input other
permute flip: input *dims
expand repeat tile: input *sizes
add sub: input other alpha=1
mul div matmul pow remainder floor_divide eq ne lt le gt ge maximum minimum mm bmm lerp type_as fill copy: input other
addmm baddbmm addbmm: input mat1 mat2 beta=1 alpha=1
to type: input target
einsum: equation *operands
cosine_similarity: x1 x2 dim=1 eps=1e-08
one_hot: input num_classes=-1
pad: input pad mode='constant' value=None
pixel_shuffle: input upscale_factor
multinomial: input num_samples replacement=False
"""

_Parameters = tuple[tuple[str, ...], str | None, dict[str, Any]]
"""Names in order, the name that takes what is left over, defaults."""


@lru_cache(maxsize=1)
def _builtins() -> dict[str, _Parameters]:
    table: dict[str, _Parameters] = {}
    for line in _BUILTINS.strip().splitlines():
        names, _, words = line.partition(": ")
        parameters, rest, defaults = [], None, {}
        for word in words.split():
            name, equals, default = word.partition("=")
            if name.startswith("*"):
                rest = name[1:]
                continue
            parameters.append(name)
            if equals:
                defaults[name] = ast.literal_eval(default)
        table.update(dict.fromkeys(names.split(), (tuple(parameters), rest, _all_plain(defaults))))
    return table


@lru_cache(maxsize=512)
def _signature(function: Any, name: str) -> _Parameters:
    code = getattr(function, "__code__", None)
    if isinstance(function, FunctionType) and code is not None and not code.co_flags & inspect.CO_VARARGS:
        parameters = inspect.signature(function).parameters
        defaults = {
            key: parameter.default for key, parameter in parameters.items() if parameter.default is not parameter.empty
        }
        return tuple(parameters), None, _all_plain(defaults)
    return _builtins().get(name, ((), None, {}))


def bind(function: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The plain arguments of ``function(*args, **kwargs)`` by name: numbers, flags, text, short tuples; with defaults.

    Tensors are left out, being inputs, and so are positional arguments of builtin functions that are not listed here.

    Example:
        >>> import torch
        >>> bind(torch.nn.functional.dropout, "dropout", (torch.ones(1), 0.1), {})
        {'p': 0.1, 'training': True, 'inplace': False}
        >>> bind(torch.Tensor.permute, "permute", (torch.ones(1, 1), 1, 0), {})
        {'dims': (1, 0)}
    """
    names, rest, defaults = _signature(function, name)
    if name in _RECURRENT and len(args) > 3 and not isinstance(args[3], bool):
        names = ("input", "batch_sizes", *names[1:-1])  # a packed sequence
    plain = defaults.copy()
    for key, value in zip(names, args, strict=False):
        _put(plain, key, value)
    for key, value in kwargs.items():
        _put(plain, key, value)
    if rest is not None and len(args) > len(names):
        left = args[len(names) :]
        _put(plain, rest, left[0] if len(left) == 1 else left)
    if name in _INDEXED and len(args) > 1:
        _put(plain, "index", _index(args[1]))
    if name in _WITH_STATISTICS:
        position = names.index("running_mean")
        running = args[position] if len(args) > position else kwargs.get("running_mean")
        plain["track_running_stats"] = running is not None
    if "train" in plain:
        plain["training"] = plain.pop("train")
    return plain


_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_INDEXED = frozenset({"getitem", "setitem"})
_WITH_STATISTICS = frozenset({"batch_norm", "instance_norm"})
_NOT_PLAIN = object()
_ATOMS = frozenset({type(None), bool, int, float, str})


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Keep ``value`` if it is plain; else not even a default is true of ``key``."""
    if type(value) not in _ATOMS:
        value = _plain(value)
    if value is _NOT_PLAIN:
        plain.pop(key, None)
    elif key[0] != "_" and key != "out":
        plain[key] = value


def _all_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in values.items():
        _put(plain, key, value)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _NOT_PLAIN
    if type(value) in _ATOMS or isinstance(value, int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return str(value).removeprefix("torch.")
    if isinstance(value, list | tuple) and len(value) <= _LONGEST:
        items = tuple(_plain(item) for item in value)
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in items) else items
    return _NOT_PLAIN


def _index(index: Any) -> Any:
    """``x[0, 1:]`` as ``"0, 1:"``; nothing where a tensor or a list picks."""
    words = []
    for item in index if isinstance(index, tuple) else (index,):
        if isinstance(item, slice) and all(isinstance(edge, int | None) for edge in (item.start, item.stop, item.step)):
            start, stop, step = ("" if edge is None else str(edge) for edge in (item.start, item.stop, item.step))
            words.append(f"{start}:{stop}" + (f":{step}" if step else ""))
        elif item is None or item is Ellipsis or isinstance(item, int | str):
            words.append("..." if item is Ellipsis else str(item))
        else:
            return _NOT_PLAIN
    return ", ".join(words)
