"""The numbers of a training step, taken once however many callbacks ask, and landed later."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.measure._extras import Extra, hand_out
from lightning_tuning.measure._measured import Measured, is_finite
from lightning_tuning.measure._position import Position
from lightning_tuning.measure.gradients import GradientNorms, GradientReader
from lightning_tuning.measure.landing import Landing
from lightning_tuning.measure.outlet import Outlet
from lightning_tuning.measure.reading import Reading

__all__ = ["Meter"]

_TOGETHER = 10
"""Readings handed on at once where they lie on the host anyway: the work on one costs a third of what it does when
nothing of it is left in the caches. As many as the losses in a block of :class:`Progress`."""


class Meter:
    """Measures for all callbacks of one ``Trainer``.

    Who needs gradient norms calls :meth:`gradient_norms` in ``on_before_optimizer_step``: the first call computes, the
    others get the same tensors. Who only watches subscribes and gets :class:`Reading` s with plain floats when they
    have landed, some steps later; the last ones at the end of fit. Nothing here makes the host wait for the device.

    Attributes:
        outlet: the way to the trainer's loggers.
        claimed: numbers that one callback logs, so that others do not; entered in ``setup``.
        at_once: hand every reading on at the end of its own batch if it has landed by then; by default up to ten
            together, unless one is to be logged or is not finite.
    """

    _by_trainer: ClassVar[weakref.WeakKeyDictionary[Trainer, Meter]] = weakref.WeakKeyDictionary()

    def __init__(self, trainer: Trainer) -> None:
        self._trainer: Trainer = weakref.proxy(trainer)
        self.outlet = Outlet(self._trainer)
        self._landing = Landing()
        self._subscribers: list[Callable[[Reading], None]] = []
        self._reader: GradientReader | None = None
        self._position: Position | None = None
        self._known: dict[int, tuple[list[int], GradientNorms]] = {}
        self._of_batch: list[Measured] = []
        self._extras: list[Extra] = []
        self._clips: dict[int, float | Tensor] = {}
        self.claimed: set[str] = set()
        self._is_dropped = False
        self._is_due = self._is_delivering = self.at_once = False

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
        self._extras.append(Extra(tensors, receive))

    def clip_at(self, optimizer: Optimizer, threshold: float | Tensor) -> None:
        """Gradients of this step are clipped to ``threshold`` (inf: not); told by a callback of ours that does so."""
        is_away = isinstance(threshold, Tensor) and not threshold.is_cpu  # it lands with the rest
        self._clips[self._where().index_of(optimizer)] = threshold if is_away else float(threshold)

    def forget_norms(self, optimizer: Optimizer) -> None:
        """The gradients of ``optimizer`` were added to: who asks from now on has them measured anew."""
        self._known.pop(id(optimizer), None)

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
            position = self._where()
            measured = [Measured(position.step, position.epoch)]
        extras, self._extras = self._extras, []
        for one in measured:
            is_last = one is measured[-1]
            self._send(one, loss if is_last else None, extras if is_last else ())
        if extras and not measured:
            self._send_alone(extras)
        self._clips.clear()
        if self._landing and (self._is_due or self.at_once or len(self._landing) >= _TOGETHER):
            self._deliver(self._landing.collect)
            self._is_due = bool(self._landing)

    def hand_on(self) -> None:
        """Hand on what lies on the host, before somebody asks how the run goes; asks no device."""
        if self._landing:
            self._deliver(self._landing.hand_on)

    @property
    def log_step(self) -> int | None:
        """The loggers' step if this step is one to log, as Lightning counts them; ``None`` if it is not."""
        return self.outlet.log_step

    def log(self, numbers: Mapping[str, float], step: int | None = None) -> None:
        """Give numbers that have landed to the trainer's loggers, if it has any.

        Args:
            numbers: by name, ``"tuning/grad_norm"``.
            step: the loggers' step at which they were measured, see :attr:`log_step`; default: the present one.
        """
        self.outlet.log(numbers, step)

    def flush(self) -> None:
        """Land everything now. A device sync: for checkpoints and the end of the run."""
        extras, self._extras = self._extras, []
        if extras:
            self._send_alone(extras)
        self._deliver(functools.partial(self._landing.collect, wait=True))

    def reset(self) -> None:
        """Forget subscribers and everything under way: a new fit begins."""
        self._subscribers.clear()
        self._landing.clear()
        self._known.clear()
        self._of_batch.clear()
        self._extras.clear()
        self._clips.clear()
        self.claimed.clear()
        self._reader = self._position = None
        self._is_dropped, self._is_due, self.at_once = False, False, False

    def _deliver(self, how: Callable[[], None]) -> None:
        """Every subscriber has one reading before any of them gets the next, also where one of them asks for more."""
        if not self._is_delivering:
            self._is_delivering = True
            try:
                how()
            finally:
                self._is_delivering = False

    def _where(self) -> Position:
        if self._position is None:
            self._position = Position(self._trainer)
        return self._position

    def _put(self, optimizer: Optimizer, norms: GradientNorms) -> None:
        """Keep ``norms`` for the end of the batch; of several evaluations for one step the last."""
        position = self._where()
        step, index = position.step, position.index_of(optimizer)
        if self._of_batch:
            self._of_batch = [one for one in self._of_batch if one.optimizer != index or one.step != step]
        self._of_batch.append(Measured(step, position.epoch, index, norms))

    def _send(self, one: Measured, loss: Tensor | None, extras: Sequence[Extra] = ()) -> None:
        norms = one.norms
        log_step = None if norms is None else self.log_step
        divided_by, own_loss = 1, None
        if loss is not None and self._where().is_automatic:
            divided_by = self._trainer.accumulate_grad_batches
        under_way: list[Tensor] = []
        if loss is not None and loss.is_cpu:
            own_loss = (loss.tolist()[0] if loss.dim() else loss.item()) * divided_by
        elif loss is not None:
            under_way.append(loss.detach())
        if norms is not None and norms.landed is None:
            under_way += [norms.each, norms.total]  # type: ignore[list-item]  # they are on the device too
        clip = None if one.optimizer is None else self._clips.get(one.optimizer)
        if isinstance(clip, Tensor):
            under_way.append(clip)
        for extra in extras:
            under_way += extra.tensors

        def receive(numbers: list[list[float]]) -> None:
            of_loss = numbers.pop(0)[0] * divided_by if loss is not None and own_loss is None else own_loss
            if norms is None:
                landed = Reading(one.step, one.epoch, of_loss)
            else:
                if norms.landed is not None:
                    each, total = norms.landed, float(norms.total)
                else:
                    each, total = tuple(numbers.pop(0)), numbers.pop(0)[0]
                bound = numbers.pop(0)[0] if isinstance(clip, Tensor) else clip
                landed = Reading(one.step, one.epoch, of_loss, one.optimizer, total, each, norms.names, bound)
                if log_step is not None:
                    self._log(landed, log_step)
            for subscriber in self._subscribers:
                subscriber(landed)
            hand_out(extras, numbers)

        if under_way or log_step is not None or not is_finite(own_loss, norms):
            self._is_due = True
        self._landing.send(under_way, receive)

    def _send_alone(self, extras: Sequence[Extra]) -> None:
        self._is_due = True
        self._landing.send([t for extra in extras for t in extra.tensors], functools.partial(hand_out, extras))

    def _log(self, reading: Reading, step: int) -> None:
        several = len(self._trainer.optimizers) > 1
        name = f"tuning/grad_norm/optimizer_{reading.optimizer}" if several else "tuning/grad_norm"
        self.log({name: float(reading.grad_norm or 0.0)}, step)
