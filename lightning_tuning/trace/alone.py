"""A mode in which nothing is sent to other ranks."""

from __future__ import annotations

import contextlib
from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["AloneMode", "alone"]

_COLLECTIVES = frozenset({"c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional"})


class AloneMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class has no types
    """Inside it nothing is sent to other ranks: the first collective raises ``RuntimeError``, before it starts.

    A rank that repeats a step of its own would otherwise wait for ever for the others' half of an ``all_gather`` or of
    a synced batch norm.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything through but collectives."""
        if func.namespace in _COLLECTIVES:
            raise RuntimeError(f"the step communicates with other ranks ({func.overloadpacket.__name__})")
        return func(*args, **kwargs or {})


def alone() -> contextlib.AbstractContextManager[Any]:
    """:class:`AloneMode` where there are several ranks; nothing else."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return AloneMode() if several else contextlib.nullcontext()  # type: ignore[no-untyped-call]
