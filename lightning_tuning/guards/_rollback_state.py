"""All that an update changes, copied aside and put back bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tuning.guards._actions import scaler_of
from lightning_tuning.guards._averages import averaged
from lightning_tuning.guards._rollback_copy import Kept, freeze, thaw

__all__ = ["TrainingState"]

_DIALS = frozenset(
    {"params", "lr", "initial_lr", "max_lr", "min_lr", "swa_lr", "weight_decay", "betas"}
    | {"momentum", "base_momentum", "max_momentum"}
)
"""Entries of a parameter group that schedules turn: they follow the run. Others (Prodigy's ``d``) are state."""


@dataclasses.dataclass
class _Model:
    """Copies of a module's parameters, and of its modules' buffers."""

    parameters: list[tuple[nn.Parameter, Kept]] = dataclasses.field(default_factory=list)
    buffers: list[tuple[nn.Module, dict[str, Any]]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Optimizer:
    """Copies of an optimizer's states, and of those entries of its groups that are state."""

    states: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    groups: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class TrainingState:
    """A copy of parameters, buffers, optimizer states, averaged weights (EMA, SWA) and the GradScaler's scale.

    One instance serves many steps: its copies are written anew at each :meth:`take`. Price: as much memory on
    ``device`` as all of that takes, one copy of it per :meth:`take`, for which the host does not wait.

    Args:
        device: where the copies are kept.

    Attributes:
        step: ``trainer.global_step`` at the last :meth:`take`.
    """

    def __init__(self, device: torch.device) -> None:
        self.step = -1
        self._device = device
        self._models: list[_Model] = []
        self._optimizers: list[_Optimizer] = []
        self._counts: Any = None
        self._scale: Any = None
        self._flags: list[Tensor] = []

    def take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy everything as it is now."""
        self.step = trainer.global_step
        averages, optimizers = averaged(trainer), list(_optimizers(trainer))
        models = [pl_module, *(average.model for average in averages)]
        with torch.no_grad():
            self._models = [self._copy_model(m, old) for m, old in _with_old(models, self._models, _Model)]
            self._optimizers = [
                self._copy_optimizer(o, old) for o, old in _with_old(optimizers, self._optimizers, _Optimizer)
            ]
            self._counts = freeze([average.count for average in averages], self._counts, self._device)
            self._scale = freeze(_scale(trainer), self._scale, self._device)
            self._flags = _finite_flags(pl_module, optimizers)

    def is_finite(self) -> bool:
        """Whether trained parameters and what the optimizers average over them were: one host read per device."""
        return all(bool(flag) for flag in self._flags)

    def fits(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether the run still has the parameters, optimizers and averages that were copied."""
        models = [pl_module, *(average.model for average in averaged(trainer))]
        same = len(models) == len(self._models) and len(list(_optimizers(trainer))) == len(self._optimizers)
        return same and all(
            list(map(id, model.parameters())) == [id(p) for p, _ in copies.parameters]
            for model, copies in zip(models, self._models, strict=True)
        )

    def restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put everything back; gradients, which are of other weights, are dropped."""
        with torch.no_grad():
            for model in self._models:
                _restore_model(model)
            for optimizer, copies in zip(_optimizers(trainer), self._optimizers, strict=True):
                _restore_optimizer(optimizer, copies)
            for average, count in zip(averaged(trainer), self._counts, strict=True):
                average.count = thaw(count, average.count)
            scaler: Any = scaler_of(trainer)
            if scaler is not None and self._scale is not None:
                scaler._scale, scaler._growth_tracker = thaw(self._scale, None)
        for parameter in pl_module.parameters():
            parameter.grad = None

    def _copy_model(self, model: nn.Module, old: _Model) -> _Model:
        spare = {id(parameter): kept for parameter, kept in old.parameters}
        homes = {id(part): buffers for part, buffers in old.buffers}
        return _Model(
            [(p, freeze(p.detach(), spare.get(id(p)), self._device)) for p in model.parameters()],
            [(part, freeze(_buffers(part), homes.get(id(part)), self._device)) for part in model.modules()],
        )

    def _copy_optimizer(self, optimizer: Optimizer, old: _Optimizer) -> _Optimizer:
        spare = {id(key): kept for key, kept in old.states}
        groups = [{name: group[name] for name in group if name not in _DIALS} for group in optimizer.param_groups]
        return _Optimizer(
            [(key, freeze(state, spare.get(id(key)), self._device)) for key, state in optimizer.state.items()],
            freeze(groups, old.groups, self._device),
        )


def _with_old(now: list[Any], before: list[Any], empty: Any) -> Iterator[tuple[Any, Any]]:
    for i, item in enumerate(now):
        yield item, before[i] if i < len(before) else empty()


def _restore_model(copies: _Model) -> None:
    for parameter, kept in copies.parameters:
        parameter.copy_(kept.values, non_blocking=True)
    for part, kept_buffers in copies.buffers:
        now = _buffers(part)
        before = thaw(kept_buffers, now)
        if not isinstance(part, torch.jit.ScriptModule):  # whose buffers live in C++ and stay the same tensors
            part._buffers.clear()
            part._buffers.update(before)


def _restore_optimizer(optimizer: Optimizer, copies: _Optimizer) -> None:
    now = dict(optimizer.state)
    optimizer.state.clear()
    for key, kept in copies.states:
        optimizer.state[key] = thaw(kept, now.get(key))
    for group, own in zip(optimizer.param_groups, copies.groups, strict=False):  # one that was added since stays
        group.update({name: thaw(kept, group.get(name)) for name, kept in own.items()})


def _buffers(part: nn.Module) -> dict[str, Tensor | None]:
    scripted = isinstance(part, torch.jit.ScriptModule)
    return dict(part.named_buffers(recurse=False)) if scripted else dict(part._buffers)


def _optimizers(trainer: Trainer) -> Iterator[Optimizer]:
    """The optimizers of the run, and those that they are wrapped around."""
    for optimizer in trainer.optimizers:
        yield optimizer
        yield from (inner for inner in vars(optimizer).values() if isinstance(inner, Optimizer))


def _scale(trainer: Trainer) -> tuple[Tensor | None, Tensor | None] | None:
    scaler: Any = scaler_of(trainer)
    return None if scaler is None else (scaler._scale, scaler._growth_tracker)


def _finite_flags(pl_module: LightningModule, optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """Per device and dtype, whether the trained parameters and their running averages are finite; nothing is read."""
    moments = (
        value
        for optimizer in optimizers
        for key, state in optimizer.state.items()
        if isinstance(state, Mapping)
        for value in state.values()
        if isinstance(value, Tensor) and value.shape == key.shape
    )
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in (*(p for p in pl_module.parameters() if p.requires_grad), *moments):
        piece = tensor.detach()
        is_number = piece.is_floating_point() or piece.is_complex()
        if is_number and piece.numel() and piece.layout is torch.strided and piece.dtype.itemsize > 1:
            alike.setdefault((piece.device, piece.dtype), []).append(piece)
    return [_extremes(pieces).isfinite().all() for pieces in alike.values()]


def _extremes(pieces: list[Tensor]) -> Tensor:
    """Numbers that are NaN or infinite if any element is. On a CPU a tenth of the time of a norm of order infinity."""
    if pieces[0].is_cpu and not pieces[0].is_complex():
        return torch.stack([extreme for piece in pieces for extreme in torch.aminmax(piece)])
    return torch.stack(torch._foreach_norm(pieces, float("inf")))
