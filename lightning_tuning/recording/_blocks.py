"""Readings of single steps, thinned to blocks so that a long run's file stays small."""

from __future__ import annotations

import math
from collections.abc import Callable

from lightning_tuning.measure import Reading

__all__ = ["StepBlocks", "block_size"]

SINGLY = 1_000
"""Steps that are kept one by one. A million make 3,700 blocks of some 200 bytes."""
_OPEN_FOR = 5.0
_OF_RUN = 0.01
"""A block is closed after 5 seconds, or a hundredth of the run so far if that is more: what is open dies with us."""


def block_size(step: int) -> int:
    """How many steps the block has that ``step`` falls into: one below 1,000, then a hundredth of the decade's end.

    Example:
        >>> [block_size(step) for step in (0, 999, 1_000, 9_999, 10_000, 123_456)]
        [1, 1, 10, 10, 100, 1000]
    """
    return 1 if step < SINGLY else 10 ** (len(str(step)) - 3)


class StepBlocks:
    """Joins readings to the lines ``{"kind": "steps", ...}`` of :class:`~lightning_tuning.reporters.run_record.Block`.

    Args:
        write: is given each block when it is complete.
        several: there are several optimizers, with blocks of their own; else what a batch without a step measured (of
            a gradient accumulation) belongs to the step that follows.
        clip: the norm to which the ``Trainer`` clips, if it does.

    Example:
        >>> import json
        >>> blocks = StepBlocks(lambda line: print(json.loads(line)["step"], json.loads(line)["loss"]))
        >>> blocks.take(Reading(0, 0, 2.5, optimizer=0, grad_norm=3.0), 0.1)
        >>> blocks.take(Reading(1, 0, 2.0, optimizer=0, grad_norm=0.5), 0.2)
        0 2.5
        >>> blocks.close()
        1 2
    """

    def __init__(self, write: Callable[[str], None], *, several: bool = False, clip: float | None = None) -> None:
        self._write, self._several, self._clip = write, several, clip
        self._open: dict[int | None, _Block] = {}

    def take(self, reading: Reading, seconds: float) -> None:
        """A reading has landed, ``seconds`` after the beginning of the run."""
        key = reading.optimizer if self._several else None
        block = self._open.get(key)
        if block is not None and not (block.last_step <= reading.step < block.end and seconds < block.due):
            self._write(block.line())
            block = None
        if block is None:
            block = self._open[key] = _Block(reading, seconds)
        block.take(reading, seconds, self._clip)

    def close(self) -> None:
        """Write what is open."""
        for block in self._open.values():
            self._write(block.line())
        self._open.clear()


class _Block:
    """One block on its way."""

    __slots__ = (
        "clip",
        "clipped",
        "count",
        "due",
        "end",
        "epoch",
        "last_step",
        "loss",
        "measured",
        "norm",
        "optimizer",
        "seconds",
        "step",
    )

    def __init__(self, reading: Reading, seconds: float) -> None:
        step, size = reading.step, block_size(reading.step)
        self.step, self.epoch, self.end = step, reading.epoch, step - step % size + size
        self.last_step, self.count = -1, 0
        self.optimizer: int | None = None
        self.loss, self.norm = _Range(), _Range()
        self.clip: float | None = None
        self.clipped = self.measured = 0
        self.seconds, self.due = seconds, seconds + max(_OPEN_FOR, _OF_RUN * seconds)

    def take(self, reading: Reading, seconds: float, clip: float | None) -> None:
        step, loss, norm = reading.step, reading.loss, reading.grad_norm
        if step != self.last_step:
            self.last_step = step
            self.count += 1
        self.seconds = seconds
        if loss is not None:
            self.loss.take(loss)
        if norm is None:
            return
        self.optimizer = reading.optimizer
        self.norm.take(norm)
        clip = clip if reading.clip is None else reading.clip
        if clip is not None:
            self.clip = clip
            self.measured += 1
            self.clipped += norm > clip

    def line(self) -> str:
        """As a line of JSON, put together by hand: to have it encoded costs a step four times as much (12 us).

        What is not known, or the same as the mean, is left out.
        """
        optimizer = "null" if self.optimizer is None else self.optimizer
        clip = (
            f', "clip": {_number(self.clip)}, "clipped": {_number(self.clipped / self.measured)}'
            if self.clip is not None
            else ""
        )
        return (
            f'{{"kind": "steps", "step": {self.step}, "last_step": {self.last_step}, "epoch": {self.epoch}, '
            f'"optimizer": {optimizer}, "count": {self.count}, "seconds": {self.seconds:.3f}'
            f"{self.loss.text('loss')}{self.norm.text('grad_norm')}{clip}}}"
        )


class _Range:
    """Mean, least and greatest of the finite numbers; and the worst of those that are not."""

    __slots__ = ("count", "greatest", "least", "off", "total")

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self.least, self.greatest = math.inf, -math.inf
        self.off: float | None = None

    def take(self, number: float) -> None:
        if -math.inf < number < math.inf:
            self.count += 1
            self.total += number
            self.least = min(self.least, number)
            self.greatest = max(self.greatest, number)
        elif self.off is None or number != number or self.off < number:  # noqa: PLR0124  # NaN is worse than infinity
            self.off = number

    def text(self, name: str) -> str:
        """Their part of a line, as :class:`Block` has them."""
        if not self.count:
            return "" if self.off is None else f', "{name}": {_number(self.off)}'
        mean = f', "{name}": {_number(self.total / self.count)}'
        if self.least != self.greatest:
            mean += f', "{name}_min": {_number(self.least)}'
        elif self.off is None:
            return mean
        return f'{mean}, "{name}_max": {_number(self.greatest if self.off is None else self.off)}'


def _number(value: float) -> str:
    """To seven digits, as many as float32 has."""
    return f"{value:.7g}" if -math.inf < value < math.inf else f'"{value}"'
