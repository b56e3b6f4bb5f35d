"""Another normalization in the place of batch norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_tuning.functional.batch_renorm import (
    BatchRenorm,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    check_renorm_arguments,
)
from lightning_tuning.functional.frozen_batch_norm import FrozenBatchNorm
from lightning_tuning.functional.module_globs import parse_globs, select_modules

__all__ = ["NormTarget", "check_conversion_arguments", "convert_batch_norm", "group_count", "is_convertible"]

NormTarget: TypeAlias = Literal["group", "sync", "frozen", "renorm"]

_OF_ONE_PLACE = "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"


def convert_batch_norm(
    module: nn.Module,
    to: NormTarget,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    groups: int = 32,
    freeze_affine: bool = True,
    r_max: float = 3.0,
    d_max: float = 5.0,
    r_steps: tuple[int, int] = (5000, 40000),
    d_steps: tuple[int, int] = (5000, 25000),
) -> nn.Module:
    """Put another normalization in the place of the batch norms of ``module``, with their scale and shift.

    ============ ============================================== ====================================================
    ``to``       becomes                                        ``state_dict``
    ============ ============================================== ====================================================
    ``"group"``  ``nn.GroupNorm``: per sample, for batches of   ``weight`` and ``bias`` alone: a checkpoint of the
                 fewer than 16                                  net with batch norms loads with ``strict=False``
    ``"sync"``   ``nn.SyncBatchNorm``, by torch's own function   as of batch norm
                 statistics over all ranks (no CPU ranks)
    ``"frozen"`` :class:`FrozenBatchNorm`: fixed statistics     as of batch norm
    ``"renorm"`` ``BatchRenorm*d``: corrected towards           as of batch norm
                 evaluation, for small batches
    ============ ============================================== ====================================================

    Parameters that go on training stay the same objects, tied ones stay tied; running statistics are copied bit for
    bit, except for ``"group"``, which has none: there a *trained* net becomes another function and has to be tuned
    again. A batch norm that stands at several places becomes one module at all of them. Do this before an optimizer is
    made: with ``"frozen"`` scale and shift are no parameters any more.

    Args:
        module: changed in place.
        to: what becomes of them, see above.
        include: globs on dotted names (``"backbone"`` means what is inside of it): only these. Default ``None``: all.
        exclude: globs: not these.
        groups: of ``"group"``, at most. Default 32, as in the paper. Fewer where channels are not divisible by it, so
            that a group has two channels or more (one alone is instance norm, which is worse by 4 points there), and 16
            for ``BatchNorm1d``, whose group may have no other values to normalize by.
        freeze_affine: of ``"frozen"``: whether scale and shift are fixed too. Default true.
        r_max: of ``"renorm"``, see ``BatchRenorm2d``. Default 3.
        d_max: of ``"renorm"``. Default 5.
        r_steps: of ``"renorm"``. Default (5000, 40000): give a short run its own.
        d_steps: of ``"renorm"``. Default (5000, 25000).

    Returns:
        ``module``, or what stands in its place if it is a batch norm itself.

    Raises:
        ValueError: for an argument outside of what is said above, a glob that means no batch norm, or ``"frozen"`` and
            ``"renorm"`` for a batch norm that keeps no running statistics.

    Example:
        >>> net = convert_batch_norm(nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48)), "group")
        >>> type(net[1]).__name__, net[1].num_groups
        ('GroupNorm', 24)

    Source: Wu and He 2018, Group Normalization, table 3; Ioffe 2017, Batch Renormalization.
    """
    renorm = {"r_max": r_max, "d_max": d_max, "r_steps": r_steps, "d_steps": d_steps}
    check_conversion_arguments(to, include=include, exclude=exclude, groups=groups, **renorm)
    found = select_modules(module, lambda part: is_convertible(part, to), include, exclude, what="batch norm")
    converted: dict[int, nn.Module] = {}
    for name, norm in found.items():
        if not isinstance(norm, _BatchNorm) or _is_target(norm, to):  # by an earlier call
            continue
        if id(norm) not in converted:
            new = _convert(name, norm, to, groups, freeze_affine, renorm)
            new._modules.update(norm._modules)
            for hooks in _OF_ONE_PLACE:
                getattr(new, hooks).update(getattr(norm, hooks))
            converted[id(norm)] = new
        if not name:
            return converted[id(norm)]
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, converted[id(norm)])
    return module


def is_convertible(part: nn.Module, to: NormTarget) -> bool:
    """Whether ``part`` is a batch norm, or was one before it was converted ``to`` what it is now."""
    return isinstance(part, _BatchNorm) or _is_target(part, to)


def group_count(channels: int, groups: int = 32, *, least: int = 2) -> int:
    """The largest divisor of ``channels`` up to ``groups`` that leaves ``least`` channels to each group, or all to one.

    Example:
        >>> group_count(64), group_count(48), group_count(8), group_count(7), group_count(64, least=16)
        (32, 24, 4, 1, 4)
    """
    most = max(1, min(groups, channels // least))
    return next(count for count in range(most, 0, -1) if channels % count == 0)


def check_conversion_arguments(to: Any, *, include: Any, exclude: Any, groups: Any, **renorm: Any) -> None:
    """Refuse what :func:`convert_batch_norm` cannot use, before there is a module.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    if to not in get_args(NormTarget):
        raise ValueError(f"`to` must be one of {get_args(NormTarget)}, got {to!r}.")
    parse_globs("include", include)
    parse_globs("exclude", exclude)
    if type(groups) is not int or groups < 1:
        raise ValueError(f"`groups` must be a whole number of at least 1, got {groups!r}.")
    check_renorm_arguments(**renorm)


def _is_target(part: nn.Module, to: NormTarget) -> bool:
    kinds = {"group": nn.GroupNorm, "sync": nn.SyncBatchNorm, "frozen": FrozenBatchNorm, "renorm": BatchRenorm}
    return isinstance(part, kinds[to])


def _convert(  # noqa: PLR0917
    name: str, norm: _BatchNorm, to: NormTarget, groups: int, freeze_affine: bool, renorm: dict[str, Any]
) -> nn.Module:
    if to == "sync":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return synced
    if to == "group":
        least = 16 if isinstance(norm, nn.BatchNorm1d | BatchRenorm1d) else 2
        count = group_count(norm.num_features, groups, least=least)
        group = nn.GroupNorm(count, norm.num_features, norm.eps, norm.affine)
        group.weight, group.bias = norm.weight, norm.bias
        return group.train(norm.training)
    if norm.running_mean is None:
        raise ValueError(f"`to` must be 'group' or 'sync' for `{name}`, which keeps no running statistics, got {to!r}.")
    if to == "frozen":
        return FrozenBatchNorm.of(norm, freeze_affine=freeze_affine)
    kinds: list[tuple[type[nn.Module], type[BatchRenorm]]] = [
        (nn.BatchNorm1d, BatchRenorm1d),
        (nn.BatchNorm2d, BatchRenorm2d),
        (nn.BatchNorm3d, BatchRenorm3d),
    ]
    kind = next((new for old, new in kinds if isinstance(norm, old)), None)
    if kind is None:
        raise ValueError(f"`{name}` must be a BatchNorm1d, 2d or 3d to be converted to 'renorm', got {norm}.")
    device, dtype = norm.running_mean.device, norm.running_mean.dtype
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, **renorm, device=device, dtype=dtype)
    new.weight, new.bias = norm.weight, norm.bias
    with torch.no_grad():
        for buffer, value in zip(new.buffers(), norm.buffers(), strict=True):
            buffer.copy_(value)
    return new.train(norm.training)
