"""Modules that are left as they are while others train."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from typing_extensions import Self

from lightning_tuning.functional.module_globs import select_modules

__all__ = ["Frozen", "frozen"]


class Frozen:
    """What :func:`frozen` has frozen, and the way back.

    Attributes:
        names: dotted names of the modules that were asked for, the outermost ones; ``""`` is the whole.
        modules: everything in them, by dotted name.
        parameters: dotted names of the parameters that were switched off.
    """

    def __init__(self, module: nn.Module, modules: dict[str, nn.Module], *, parameters: bool) -> None:
        self.names = [name for name in modules if not any(_is_in(name, other) for other in modules if other != name)]
        self.modules = modules
        self._modes = {part: part.training for part in modules.values()}
        inside = {id(p) for part in self._modes for p in part.parameters(recurse=False)} if parameters else set()
        found = [(name, p) for name, p in module.named_parameters() if id(p) in inside and p.requires_grad]
        self.parameters = [name for name, _ in found]
        self._switched = [parameter for _, parameter in found]
        for parameter in self._switched:
            parameter.requires_grad_(False)

    def hold(self) -> list[str]:
        """Put everything into evaluation mode; the names of what was not in it."""
        moved = [name for name, part in self.modules.items() if part.training]
        for name in moved:
            self.modules[name].training = False
        return moved

    def unfreeze(self) -> None:
        """Put modes and ``requires_grad`` back to what they were."""
        for part, training in self._modes.items():
            part.training = training
        for parameter in self._switched:
            parameter.requires_grad_(True)
        self._switched = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unfreeze()

    def __repr__(self) -> str:
        parts = [*self._modes]
        counts = [
            (sum(isinstance(part, _NormBase) for part in parts), "batch norm"),
            (sum(isinstance(part, _DropoutNd) for part in parts), "dropout"),
            (len(self.parameters), "parameter"),
        ]
        told = [f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts if number]
        which = ", ".join(name or "the whole module" for name in self.names)
        return f"frozen: {which} ({', '.join(told)})" if told else f"frozen: {which}"


def frozen(
    module: nn.Module,
    include: str | Iterable[str] | None = None,
    *,
    parameters: bool = True,
    modes: bool = True,
) -> Frozen:
    """Freeze ``module``, or parts of it, at once: evaluation mode, and parameters that get no gradient.

    ``requires_grad_(False)`` alone leaves running statistics moving and dropout dropping; ``eval()`` alone leaves the
    weights training. A later ``train()`` of an outer module undoes the mode; in a Lightning run take ``FreezeGuard``,
    which holds it.

    Args:
        module: where to look.
        include: globs on dotted names; a name means everything inside of it. Default ``None``: all of it.
        parameters: whether to switch ``requires_grad`` off. Default true.
        modes: whether to put modules into evaluation mode now. Default true.

    Returns:
        what was frozen; as a context manager it unfreezes at the end of the ``with`` block.

    Raises:
        ValueError: for a glob that means no module.

    Example:
        >>> net = nn.ModuleDict(
        ...     {"backbone": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "head": nn.Linear(2, 1)}
        ... )
        >>> with frozen(net, "backbone") as what:
        ...     print(what)
        frozen: backbone (1 batch norm, 4 parameters)
        >>> net["backbone"].training
        True
    """
    modules = select_modules(module, lambda _: True, include)
    held = Frozen(module, modules, parameters=parameters)
    if modes:
        held.hold()
    return held


def _is_in(name: str, outer: str) -> bool:
    return not outer or name.startswith(f"{outer}.")
