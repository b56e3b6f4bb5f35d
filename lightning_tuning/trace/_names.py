"""What an overridable torch function is called here, whichever of its spellings the user chose."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

__all__ = ["Call", "Role", "name_call", "name_node"]

Role = Literal["op", "write", "constant", "read", "flag", "skip"]
"""What a call means to the graph: makes tensors from tensors; writes into its first tensor; makes tensors from nothing;
takes numbers out of tensors; switches ``requires_grad``; nothing."""


class Call(NamedTuple):
    """A function under its canonical name.

    Attributes:
        name: canonical name.
        role: what the call means to the graph.
        overwrites: a write that leaves nothing of what was there before.
        metadata: a write to shape or autograd history only; other views of the same memory see no difference.
    """

    name: str
    role: Role
    overwrites: bool = False
    metadata: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKIP = Call("", "skip")

# Of a tensor they want to know the shape at most, or a size.
_FROM_NOTHING = _words(
    "zeros ones empty rand randn randint randperm zeros_like ones_like full_like empty_like "
    "rand_like randn_like randint_like empty_permuted new new_zeros new_ones new_full new_empty new_empty_strided"
)

_READS = {
    **dict.fromkeys(("item", "__float__", "__int__", "__bool__", "__index__", "__complex__", "is_nonzero"), "item"),
    **dict.fromkeys(("numpy", "__array__", "__dlpack__"), "numpy"),
    "tolist": "tolist",
    "equal": "equal",
    "allclose": "allclose",
}
_OVERWRITES = _words("zero_ fill_ copy_ normal_ uniform_ random_ exponential_ geometric_ cauchy_ log_normal_ set_")
_METADATA = _words(
    "squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ as_strided_ detach_ resize_ resize_as_ rename_"
)
_FLAGS = _words("requires_grad_")
_NO_OPS = _words(
    "size dim ndimension numel nelement stride storage_offset element_size get_device data_ptr untyped_storage storage "
    "is_contiguous is_floating_point is_complex is_signed is_shared is_pinned is_same_size is_inference _is_view "
    "can_cast result_type promote_types __len__ __hash__ __repr__ __str__ __format__ __dir__ __reduce_ex__ "
    "share_memory_ retain_grad register_hook register_post_accumulate_grad_hook _set_grad_enabled _coalesced_"
)

_PROPERTIES = {
    "T": "t",
    "mT": "transpose",
    "H": "adjoint",
    "mH": "adjoint",
    "real": "real",
    "imag": "imag",
    "data": "data",
}

_OPERATORS = {
    "truediv": "div",
    "div": "div",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
    "invert": "bitwise_not",
    **{name: name for name in _words("add sub mul matmul pow neg pos abs eq ne lt le gt ge getitem setitem deepcopy")},
}

_ALIASES = {
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "rsub": "sub",
    "negative": "neg",
    "absolute": "abs",
    "fmod": "remainder",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    "concat": "cat",
    "concatenate": "cat",
    "clip": "clamp",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "linalg_matmul": "matmul",
    "log_sigmoid": "logsigmoid",
    "special_expit": "sigmoid",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
    "max_pool1d_with_indices": "max_pool1d",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "adaptive_max_pool1d_with_indices": "adaptive_max_pool1d",
    "adaptive_max_pool2d_with_indices": "adaptive_max_pool2d",
    "adaptive_max_pool3d_with_indices": "adaptive_max_pool3d",
    "native_batch_norm": "batch_norm",
    "native_dropout": "dropout",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "convolution": "conv",
}


def name_call(function: Any) -> Call:
    """What ``function``, as a torch function mode receives it, is called and what it does.

    Example:
        >>> import torch
        >>> [
        ...     name_call(f).name
        ...     for f in (torch.relu_, torch.nn.functional.relu, torch.Tensor.__rmul__, torch.Tensor.T.__get__)
        ... ]
        ['relu', 'relu', 'mul', 't']
    """
    name = str(getattr(function, "__name__", ""))
    if name in ("__get__", "__set__"):
        return _name_property(str(getattr(getattr(function, "__self__", None), "__name__", "")), name)
    name = name.split(".", maxsplit=1)[0]  # an OpOverload is called "add.Tensor"
    if name in _READS:
        return Call(_READS[name], "read")
    if name in _FLAGS:
        return Call(name, "flag")
    if name in _NO_OPS or not name:
        return _SKIP
    if name in _FROM_NOTHING:
        return Call(name, "constant")
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        if core in _OPERATORS:
            return Call(_OPERATORS[core], "write" if core == "setitem" else "op")
        if core[:1] in ("r", "i") and core[1:] in _OPERATORS:
            return Call(_OPERATORS[core[1:]], "write" if core[0] == "i" else "op")
        return Call(core, "op")
    writes = name.endswith("_")
    plain = name.strip("_")
    return Call(_ALIASES.get(plain, plain), "write" if writes else "op", name in _OVERWRITES, name in _METADATA)


def _name_property(name: str, access: str) -> Call:
    if access == "__get__":
        return Call(_PROPERTIES[name], "op") if name in _PROPERTIES else _SKIP
    if name == "data":
        return Call("data", "write", overwrites=True, metadata=True)  # the tensor moves to other memory
    return Call(name, "flag") if name == "requires_grad" else _SKIP


def name_node(node: Any) -> str:
    """The name of an operation that only autograd's graph tells of: of a custom function its class, else the node's.

    Example:
        >>> import torch
        >>> name_node(torch.ones(1, requires_grad=True).exp().grad_fn)
        'exp'
    """
    custom = getattr(type(node), "_forward_cls", None)
    if custom is not None:
        return str(custom.__name__)
    plain = re.sub(r"Backward\d*$", "", str(node.name())).split("::")[-1]
    return _ALIASES.get(plain.lower(), re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower())
