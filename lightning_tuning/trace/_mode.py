"""The torch function mode by which the recorder sees operations, and the composites that it looks into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, overrides
from torch.overrides import TorchFunctionMode

from lightning_tuning.trace._ledger import tensors_in
from lightning_tuning.trace.aside import is_aside

__all__ = ["OPENED", "WatchingMode", "Witness"]

OPENED = frozenset({"multi_head_attention_forward", "triplet_margin_with_distance_loss"})
"""Python functions that are entered instead of being one operation: those with layers inside (weights, dropout), and
those that call the user's code. What is one mathematical operation (losses, norms, softmax, activations, ``normalize``,
``gumbel_softmax``, ``einsum``) stays whole."""


class Witness(Protocol):
    """Is told of every operation; must not raise."""

    def before(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What to remember until the operation is done; ``None`` to hear no more of it."""

    def after(self, remembered: Any, result: Any) -> None:
        """The operation gave ``result``."""


class WatchingMode(TorchFunctionMode):
    """Tells a witness of every overridable call, before and after; the call itself is untouched.

    Args:
        witness: who is told.
        skipped: functions of which it is not told; may grow.
    """

    def __init__(self, witness: Witness, skipped: AbstractSet[Any] = frozenset()) -> None:
        super().__init__()
        self._witness = witness
        self._skipped = skipped
        self._is_aside = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._skipped or torch.compiler.is_compiling() or is_aside() is not self._is_aside:
            return func(*args, **kwargs)  # a replay in the middle of the recorded step is not part of it
        if getattr(func, "__name__", None) in OPENED and all(map(_is_plain, tensors_in(args, kwargs))):
            with self:  # in here this mode is off; what the function calls has to come by again
                return _without_dispatch(func)(*args, **kwargs)
        remembered = self._witness.before(func, args, kwargs)
        result = func(*args, **kwargs)
        if remembered is not None:
            self._witness.after(remembered, result)
        return result

    def put_on(self) -> None:
        """Put this mode on top of the stack."""
        self._is_aside = is_aside()
        _stack.push(self)

    def remove(self) -> None:
        """Take this mode off the stack; one that was entered after it and is still active stays."""
        above = []
        while (mode := _stack.top()) is not self and mode is not None:
            above.append(_stack.pop())
        if mode is not None:
            _stack.pop()
        for other in reversed(above):
            _stack.push(other)


class _stack:  # noqa: N801 (a namespace)
    """Torch's stack of function modes; its functions have no types."""

    top: Callable[[], TorchFunctionMode | None] = staticmethod(overrides._get_current_function_mode)
    pop: Callable[[], TorchFunctionMode] = staticmethod(overrides._pop_mode)
    push: Callable[[TorchFunctionMode], None] = staticmethod(overrides._push_mode)


def _is_plain(tensor: Tensor) -> bool:
    """It takes no part in dispatch itself, so that nothing is skipped by not asking it."""
    dispatch: Any = type(tensor).__torch_function__
    usual: Any = Tensor.__torch_function__
    return dispatch is torch._C._disabled_torch_function_impl or getattr(dispatch, "__func__", None) is usual.__func__


def _without_dispatch(function: Any) -> Any:
    """A copy of a Python function of torch that goes straight to its body instead of asking modes and subclasses."""
    if not isinstance(function, FunctionType):
        return function
    asking = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    names = {**function.__globals__, **dict.fromkeys(asking, _never)}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(*_: Any) -> bool:
    return False
