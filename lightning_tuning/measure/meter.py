"""The numbers of a training step, taken once however many callbacks ask, and landed later."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.measure.gradients import GradientNorms, GradientReader
from lightning_tuning.measure.landing import Landing

__all__ = ["Meter", "Reading"]


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
        clip: the norm to which a callback of ours clipped this step, see :meth:`Meter.clip_at`; ``None`` if none did.
    """

    step: int
    epoch: int
    loss: float | None = None
    optimizer: int | None = None
    grad_norm: float | None = None
    grad_norms: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    clip: float | None = None


class _Extra(NamedTuple):
    """Tensors of somebody's own, and who waits for them."""

    tensors: Sequence[Tensor]
    receive: Callable[[list[list[float]]], None]


class _Measured(NamedTuple):
    """What was measured for one optimizer and not yet sent; without an optimizer, a batch that took no step."""

    step: int
    epoch: int
    optimizer: int | None = None
    norms: GradientNorms | None = None


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
        self._reader: GradientReader | None = None
        self._known: dict[int, tuple[list[int], GradientNorms]] = {}
        self._of_batch: list[_Measured] = []
        self._extras: list[_Extra] = []
        self._clips: dict[int, float] = {}
        self._is_dropped = False

    @classmethod
    def of(cls, trainer: Trainer) -> Meter:
        """The meter of ``trainer``, made on first use."""
        if trainer not in cls._by_trainer:
            cls._by_trainer[trainer] = cls(trainer)
        return cls._by_trainer[trainer]

    @property
    def is_idle(self) -> bool:
        """Nobody waits for a reading: the ends of batches need not be told."""
        waiting = self._subscribers or self._of_batch or self._extras or self._landing
        return not (waiting or self._trainer.loggers)

    def subscribe(self, receive: Callable[[Reading], None]) -> None:
        """Hand every reading to ``receive`` from now on, until :meth:`reset`."""
        if receive not in self._subscribers:
            self._subscribers.append(receive)

    def gradient_norms(self, optimizer: Optimizer, asker: object = None) -> GradientNorms:
        """Norms of the gradients that ``optimizer`` is about to use; to be asked for in ``on_before_optimizer_step``.

        Args:
            optimizer: as the hook got it.
            asker: asks once in each call of the hook. Who was not answered yet gets what was measured for the others;
                who asks again has the gradients measured anew, as in the next step, another pass of accumulation, or
                the next inner evaluation of LBFGS. ``None`` (default) always measures.
        """
        known = self._known.get(id(optimizer))
        if known is not None and asker is not None and id(asker) not in known[0]:
            known[0].append(id(asker))
            return known[1]
        if self._reader is None:
            self._reader = GradientReader(self._trainer)
        norms = self._reader.read(optimizer)
        self._known[id(optimizer)] = [id(asker)], norms
        if norms.names and (self._subscribers or self._trainer.loggers):  # none under DeepSpeed, which keeps them
            self._put(optimizer, norms)
        return norms

    def put(self, tensors: Sequence[Tensor], receive: Callable[[list[list[float]]], None]) -> None:
        """Land ``tensors`` (0-d or 1-d) with the numbers of the batch that ends next; see :meth:`Landing.send`."""
        self._extras.append(_Extra(tensors, receive))

    def clip_at(self, optimizer: Optimizer, threshold: float) -> None:
        """Gradients of this step are clipped to ``threshold``; told by a callback of ours that does so."""
        self._clips[self._index_of(optimizer)] = threshold

    def drop_batch(self) -> None:
        """What this batch gave says nothing of the run and lands nowhere; told by a guard that drops it."""
        self._is_dropped = not self.is_idle

    def on_batch_end(self, loss: Tensor | None) -> None:
        """Send this batch's numbers on their way and hand on what has landed; told by the desk."""
        measured, self._of_batch = self._of_batch, []
        self._known.clear()
        if self._is_dropped:
            self._is_dropped, measured, loss = False, [], None
        if loss is not None and not measured:
            measured = [_Measured(self._trainer.global_step, self._trainer.current_epoch)]
        extras, self._extras = self._extras, []
        for one in measured:
            is_last = one is measured[-1]
            self._send(one, loss if is_last else None, extras if is_last else ())
        if extras and not measured:
            self._send_alone(extras)
        self._clips.clear()
        if self._landing:
            self._landing.collect()

    @property
    def log_step(self) -> int | None:
        """The loggers' step if this step is one to log, as Lightning counts them; ``None`` if it is not."""
        if not self._trainer.loggers:
            return None
        step: int = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        every: int = self._trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of Lightning's
        return step if every and (step + 1) % every == 0 else None

    def log(self, numbers: Mapping[str, float], step: int | None = None) -> None:
        """Give numbers that have landed to the trainer's loggers, if it has any.

        Args:
            numbers: by name, ``"tuning/grad_norm"``.
            step: the loggers' step at which they were measured, see :attr:`log_step`; default: the present one.
        """
        for logger in self._trainer.loggers:
            now = self._trainer.fit_loop.epoch_loop._batches_that_stepped
            logger.log_metrics(dict(numbers), step=now if step is None else step)

    def flush(self) -> None:
        """Land everything now. A device sync: for checkpoints and the end of the run."""
        extras, self._extras = self._extras, []
        if extras:
            self._send_alone(extras)
        self._landing.collect(wait=True)

    def reset(self) -> None:
        """Forget subscribers and everything under way: a new fit begins."""
        self._subscribers.clear()
        self._landing.clear()
        self._known.clear()
        self._of_batch.clear()
        self._extras.clear()
        self._clips.clear()
        self._reader, self._is_dropped = None, False

    def _put(self, optimizer: Optimizer, norms: GradientNorms) -> None:
        """Keep ``norms`` for the end of the batch; of several evaluations for one step the last."""
        step, index = self._trainer.global_step, self._index_of(optimizer)
        if self._of_batch:
            self._of_batch = [one for one in self._of_batch if one.optimizer != index or one.step != step]
        self._of_batch.append(_Measured(step, self._trainer.current_epoch, index, norms))

    def _index_of(self, optimizer: Optimizer) -> int:
        return next((i for i, known in enumerate(self._trainer.optimizers) if _raw(known) is _raw(optimizer)), 0)

    def _send(self, one: _Measured, loss: Tensor | None, extras: Sequence[_Extra] = ()) -> None:
        trainer, norms = self._trainer, one.norms
        log_step = None if norms is None else self.log_step
        tensors = [] if loss is None else [loss.detach()]
        if norms is not None and norms.landed is None:
            tensors += [norms.each, norms.total]  # type: ignore[list-item]  # what has not landed is on the device
        for extra in extras:
            tensors += extra.tensors
        clip = None if one.optimizer is None else self._clips.get(one.optimizer)
        divided_by = 1
        if loss is not None and trainer.lightning_module.automatic_optimization:
            divided_by = trainer.accumulate_grad_batches

        def receive(numbers: list[list[float]]) -> None:
            own_loss = None if loss is None else numbers.pop(0)[0] * divided_by
            landed = Reading(one.step, one.epoch, own_loss)
            if norms is not None:
                if norms.landed is not None:
                    each, total = norms.landed, float(norms.total)
                else:
                    each, total = tuple(numbers.pop(0)), numbers.pop(0)[0]
                landed = Reading(one.step, one.epoch, own_loss, one.optimizer, total, each, norms.names, clip)
                if log_step is not None:
                    self._log(landed, log_step)
            for subscriber in self._subscribers:
                subscriber(landed)
            _hand_out(extras, numbers)

        self._landing.send(tensors, receive)

    def _send_alone(self, extras: Sequence[_Extra]) -> None:
        self._landing.send([t for extra in extras for t in extra.tensors], functools.partial(_hand_out, extras))

    def _log(self, reading: Reading, step: int) -> None:
        several = len(self._trainer.optimizers) > 1
        name = f"tuning/grad_norm/optimizer_{reading.optimizer}" if several else "tuning/grad_norm"
        self.log({name: float(reading.grad_norm or 0.0)}, step)


def _hand_out(extras: Sequence[_Extra], numbers: list[list[float]]) -> None:
    """To each its own, from the numbers of all of them."""
    for extra in extras:
        own, numbers = numbers[: len(extra.tensors)], numbers[len(extra.tensors) :]
        extra.receive(own)


def _raw(optimizer: Any) -> Optimizer:
    raw: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return raw
