"""The numbers of a training step, taken once however many callbacks ask, and landed later."""

from __future__ import annotations

import dataclasses
import re
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.distributed.fsdp import ShardingStrategy
from torch.optim import Optimizer

from lightning_tuning.functional import global_norm
from lightning_tuning.measure.landing import Landing
from lightning_tuning.measure.sharding import sharded_norms

__all__ = ["GradientNorms", "Meter", "Reading", "plain_name"]


_WRAPPERS = re.compile(r"_(fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")


def plain_name(name: str) -> str:
    """A parameter's name without what FSDP, activation checkpointing and ``torch.compile`` put into it.

    Example:
        >>> plain_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return _WRAPPERS.sub("", name)


@dataclasses.dataclass(frozen=True)
class GradientNorms:
    """Norms of one optimizer's gradients: reduced over ranks, unscaled, not yet clipped. On their device.

    Attributes:
        names: dotted names of the parameters that have a gradient, in the optimizer's order.
        each: float32 vector, one L2 norm per name.
        total: 0-d, the global L2 norm.
    """

    names: tuple[str, ...]
    each: Tensor
    total: Tensor


@dataclasses.dataclass(frozen=True)
class Reading:
    """The landed numbers of one optimizer step, or of one batch that ended without a step.

    Attributes:
        step: ``trainer.global_step`` before the optimizer stepped.
        epoch: ``trainer.current_epoch``.
        loss: the training loss of the batch, undivided by gradient accumulation; ``None`` where the module returned
            none. Of several readings of one batch only the last carries it.
        optimizer: index of the optimizer; ``None`` for a batch without a measured step.
        grad_norm: global L2 norm, before clipping; ``None`` likewise.
        grad_norms: one L2 norm per name.
        names: see :class:`GradientNorms`.
    """

    step: int
    epoch: int
    loss: float | None = None
    optimizer: int | None = None
    grad_norm: float | None = None
    grad_norms: tuple[float, ...] = ()
    names: tuple[str, ...] = ()


class Meter:
    """Measures for all callbacks of one ``Trainer``.

    Who needs gradient norms calls :meth:`gradient_norms` in ``on_before_optimizer_step``: the first call computes, the
    others get the same tensors. Who only watches subscribes and gets :class:`Reading` s with plain floats when they
    have landed, some steps later; the last ones at the end of fit. Nothing here makes the host wait for the device.
    """

    _by_trainer: ClassVar[weakref.WeakKeyDictionary[Trainer, Meter]] = weakref.WeakKeyDictionary()

    def __init__(self, trainer: Trainer) -> None:
        self._trainer: Trainer = weakref.proxy(trainer)
        self._landing = Landing()
        self._subscribers: list[Callable[[Reading], None]] = []
        self._measured: dict[int, tuple[tuple[int, int], GradientNorms]] = {}
        self._of_batch: list[tuple[Reading, GradientNorms]] = []
        self._named: dict[int, tuple[list[int], tuple[str, ...]]] = {}
        self._backwards = 0
        self._is_dropped = False

    @classmethod
    def of(cls, trainer: Trainer) -> Meter:
        """The meter of ``trainer``, made on first use."""
        if trainer not in cls._by_trainer:
            cls._by_trainer[trainer] = cls(trainer)
        return cls._by_trainer[trainer]

    def subscribe(self, receive: Callable[[Reading], None]) -> None:
        """Hand every reading to ``receive`` from now on, until :meth:`reset`."""
        if receive not in self._subscribers:
            self._subscribers.append(receive)

    def gradient_norms(self, optimizer: Optimizer) -> GradientNorms:
        """Norms of the gradients that ``optimizer`` is about to use; to be asked for in ``on_before_optimizer_step``.

        Memoised per optimizer, optimizer step and backward pass, so that accumulation, several optimizers, manual
        optimization and LBFGS's inner evaluations each get their own.
        """
        key = self._backwards, self._trainer.global_step
        known = self._measured.get(id(optimizer))
        if known is not None and known[0] == key:
            return known[1]
        norms = self._measure(optimizer)
        self._measured[id(optimizer)] = key, norms
        if not norms.names:
            return norms  # nothing to tell: DeepSpeed keeps the gradients to itself
        index = next((i for i, known in enumerate(self._trainer.optimizers) if _raw(known) is _raw(optimizer)), 0)
        self._of_batch = [entry for entry in self._of_batch if entry[0].optimizer != index or entry[0].step != key[1]]
        reading = Reading(key[1], self._trainer.current_epoch, optimizer=index, names=norms.names)
        self._of_batch.append((reading, norms))
        return norms

    def drop_batch(self) -> None:
        """What this batch gave says nothing of the run and lands nowhere; told by a guard that drops it."""
        self._is_dropped = True

    def on_backward(self) -> None:
        """Gradients have changed; told by the desk at ``on_after_backward``."""
        self._backwards += 1

    def on_batch_end(self, loss: Tensor | None) -> None:
        """Send this batch's numbers on their way and hand on what has landed; told by the desk."""
        measured, self._of_batch = self._of_batch, []
        if self._is_dropped:
            self._is_dropped = False
            measured, loss = [], None
        for reading, norms in measured[:-1]:
            self._send(reading, norms, None)
        if measured:
            self._send(*measured[-1], loss)
        elif loss is not None:
            self._send(Reading(self._trainer.global_step, self._trainer.current_epoch), None, loss)
        self._landing.collect()

    def flush(self) -> None:
        """Land everything now. A device sync: for checkpoints and the end of the run."""
        self._landing.collect(wait=True)

    def reset(self) -> None:
        """Forget subscribers and everything under way: a new fit begins."""
        self._subscribers.clear()
        self._landing.clear()
        self._measured.clear()
        self._of_batch.clear()
        self._named.clear()
        self._is_dropped = False

    def _send(self, reading: Reading, norms: GradientNorms | None, loss: Tensor | None) -> None:
        tensors = [] if loss is None else [loss.detach()]
        if norms is not None:
            tensors += [norms.total, norms.each]
        log_step = self._log_step() if norms is not None else None
        divided_by = (
            self._trainer.accumulate_grad_batches if self._trainer.lightning_module.automatic_optimization else 1
        )

        def receive(numbers: list[list[float]]) -> None:
            own_loss = None if loss is None else numbers.pop(0)[0] * divided_by
            total, each = (None, ()) if norms is None else (numbers[0][0], tuple(numbers[1]))
            landed = Reading(reading.step, reading.epoch, own_loss, reading.optimizer, total, each, reading.names)
            if log_step is not None:
                self._log(landed, log_step)
            for subscriber in self._subscribers:
                subscriber(landed)

        self._landing.send(tensors, receive)

    def _log_step(self) -> int | None:
        """The logger's step if this step is one to log, as Lightning counts them."""
        step: int = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        every: int = self._trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of Lightning's
        return step if self._trainer.loggers and every and (step + 1) % every == 0 else None

    def _log(self, reading: Reading, step: int) -> None:
        several = len(self._trainer.optimizers) > 1
        name = f"tuning/grad_norm/optimizer_{reading.optimizer}" if several else "tuning/grad_norm"
        for logger in self._trainer.loggers:
            logger.log_metrics({name: float(reading.grad_norm or 0.0)}, step=step)

    def _measure(self, optimizer: Optimizer) -> GradientNorms:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        names = self._names_of(parameters)
        copies = _flat_copies(self._trainer)
        gradients = [p.grad for p in parameters]
        if copies is not None:  # which piece has no gradient differs between ranks, the length of the vector must not
            gradients = [p.new_zeros(0) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        present = [g for g in gradients if g is not None]
        if len(present) != len(gradients):
            names = tuple(name for name, g in zip(names, gradients, strict=True) if g is not None)
        each = sharded_norms(present, flat_copies=copies)
        if not present:
            each = each.to(self._trainer.strategy.root_device)
        scale = self._scale_left_in(optimizer)
        if scale is not None:
            each = each / scale
        return GradientNorms(names, each, global_norm(each))

    def _names_of(self, parameters: list[Tensor]) -> tuple[str, ...]:
        """Dotted names, looked up anew whenever a parameter is another one than the last time."""
        known = self._named.get(len(parameters))
        if known is None or known[0] != list(map(id, parameters)):
            name_of = {id(p): plain_name(n) for n, p in self._trainer.lightning_module.named_parameters()}
            names = tuple(name_of.get(id(p), f"<unnamed {i}>") for i, p in enumerate(parameters))
            self._named[len(parameters)] = known = list(map(id, parameters)), names
        return known[1]

    def _scale_left_in(self, optimizer: Optimizer) -> Tensor | None:
        """Fused optimizers get no ``unscale_``: their gradients still carry the GradScaler's factor here."""
        scaler: Any = getattr(self._trainer.precision_plugin, "scaler", None)
        if scaler is None or not getattr(_raw(optimizer), "_step_supports_amp_scaling", False):
            return None
        scale: Tensor | None = scaler._scale  # `get_scale()` would read it back to the host
        return scale


def _flat_copies(trainer: Trainer) -> int | None:
    """How many ranks hold the same piece of a flat parameter of FSDP1; ``None`` where there are no such pieces."""
    if not isinstance(trainer.strategy, FSDPStrategy):
        return None
    sharding = trainer.strategy.sharding_strategy
    if sharding is ShardingStrategy.NO_SHARD:
        return trainer.world_size
    if sharding not in (ShardingStrategy.HYBRID_SHARD, ShardingStrategy._HYBRID_SHARD_ZERO2):
        return 1
    mesh = trainer.strategy.kwargs.get("device_mesh")  # (replicas, shards); without one, a machine is a set of shards
    return trainer.num_nodes if mesh is None else mesh.size(0)


def _raw(optimizer: Any) -> Optimizer:
    raw: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return raw
