"""Whether a real training step may be recorded without changing its numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import nn

from lightning_tuning.trace._modules import clean_path

__all__ = ["why_not_live"]

_FAST_IN_EVAL = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


def why_not_live(module: nn.Module) -> str | None:
    """Why a training step of ``module`` must not be recorded as it happens; ``None`` where it may be.

    Recording has to change nothing, and in two cases it would: a compiled module runs other kernels when it is made to
    run eagerly (a loss of 2.4958 against 2.5150 was measured), and attention in evaluation mode leaves its fused path
    while any torch function mode is active. Such a step can be repeated aside and recorded there.

    Example:
        >>> why_not_live(nn.Linear(2, 2)) is None
        True
        >>> why_not_live(nn.Sequential(nn.MultiheadAttention(2, 1).eval()))
        '`0` (MultiheadAttention) is in evaluation mode: recording takes it off its fused path and changes its numbers.'
    """
    for name, part in module.named_modules():
        place = f"`{clean_path(name)}`" if clean_path(name) else f"the {type(part).__name__}"
        compiled = _compiled(part)
        if compiled is not None:
            return f"{place} is compiled{compiled}: run eagerly for the recording, its numbers would change."
        if isinstance(part, _FAST_IN_EVAL) and not part.training:
            reason = "is in evaluation mode: recording takes it off its fused path and changes its numbers."
            return f"{place} ({type(part).__name__}) {reason}"
    return None


def _compiled(module: nn.Module) -> str | None:
    """Completes "is compiled" where ``torch.compile`` was put on it, on a method, or on a function a method calls."""
    if "torch._dynamo" not in sys.modules:  # importing it costs a second, and what was compiled has imported it
        return None
    from torch._dynamo.eval_frame import OptimizedModule  # noqa: PLC0415

    if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None:
        return ""
    for name, value in _callables(module):
        if hasattr(value, "_torchdynamo_orig_callable"):
            return f" in its `{name}`"
    return None


def _callables(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if callable(value):
            yield name, value
    for base in type(module).__mro__:
        if base is nn.Module or base.__module__.startswith(("torch.", "lightning.", "builtins")):
            continue
        for name, value in vars(base).items():
            function = getattr(value, "__func__", value)
            yield name, function
            if isinstance(function, FunctionType):
                for used in function.__code__.co_names:
                    if isinstance(function.__globals__.get(used), FunctionType):
                        yield used, function.__globals__[used]
