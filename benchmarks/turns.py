"""Several trainings at once, each in a thread of its own, that take turns of a few steps and are timed in them."""

from __future__ import annotations

import itertools
import random
import statistics
import threading
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

SETTLING = 60
"""Steps before the clock starts: the last of the checks that look at more than the first step are done by then."""


class Clock(pl.Callback):
    """Times a run that waits for its turn, once it is settled.

    Args:
        read: the clock.
        length: steps in a turn.
        turns: how many there will be.
        anomaly: whether torch's anomaly detection is on in them; it is one flag for all threads.
    """

    def __init__(self, read: Callable[[], float], length: int, turns: int, *, anomaly: bool) -> None:
        self.read, self.length, self.turns, self.anomaly = read, length, turns, anomaly
        self.may_go, self.has_paused = threading.Semaphore(0), threading.Semaphore(0)
        self.starts: list[float] = []
        self.steps: list[list[float]] = []
        self.failed: BaseException | None = None

    def on_fit_start(self, *_: Any) -> None:  # noqa: D102
        self.starts.append(self.read())

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: D102
        self.starts.append(self.read())
        done = len(self.starts) - 2 - SETTLING
        if not self.turns or done < 0 or done % self.length:
            return
        if done:
            turn = itertools.pairwise(self.starts[-self.length :])
            self.steps.append([after - before for before, after in turn])
        self.pause()
        self.starts[-1] = self.read()

    def pause(self) -> None:
        """Let others go on, until it is this run's turn."""
        self.has_paused.release()
        self.may_go.acquire()
        torch.autograd.set_detect_anomaly(self.anomaly)  # type: ignore[no-untyped-call]

    def go_on(self) -> None:
        """Give this run a turn, from another thread, and wait for its end."""
        self.may_go.release()
        self.has_paused.acquire()
        if self.failed is not None:
            raise self.failed

    @property
    def once(self) -> float:
        """Seconds from the start of the fit to the second batch."""
        return self.starts[2] - self.starts[0]

    @property
    def batches(self) -> int:
        """That the run takes."""
        return SETTLING + self.turns * self.length + 1 if self.turns else 3

    @property
    def per_step(self) -> list[float]:
        """Median step of each turn, in seconds."""
        return [statistics.median(steps) for steps in self.steps]

    @property
    def mean(self) -> float:
        """Mean of all steps, with those in it that a monitor looks at more closely."""
        return statistics.fmean(itertools.chain.from_iterable(self.steps))


def start(fit: Callable[[Clock], None], clock: Clock) -> threading.Thread:
    """The run ``fit(clock)`` that is settled and waits for its turn."""

    def run() -> None:
        try:
            fit(clock)
        except BaseException as error:  # noqa: BLE001  # it is raised again where the others are waited for
            clock.failed = error
        clock.has_paused.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    clock.has_paused.acquire()
    if clock.failed is not None:
        raise clock.failed
    return thread


def one_round(
    fits: Mapping[str, Callable[[Clock], None]], make_clock: Callable[[str, int], Clock], turns: int
) -> dict[str, tuple[Clock, Clock]]:
    """All of ``fits``: the first batches of each, one after the other; and the rest side by side.

    Args:
        fits: trainings with a clock among their callbacks.
        make_clock: gives the clock of the training of that name, for so many turns.
        turns: of each.
    """
    first = {name: make_clock(name, 0) for name in fits}
    for name, clock in first.items():
        fits[name](clock)
    clocks = {name: make_clock(name, turns) for name in fits}
    threads = [start(fits[name], clock) for name, clock in clocks.items()]
    waiting = list(clocks.values())
    for _ in range(turns):
        random.shuffle(waiting)
        for clock in waiting:
            clock.go_on()
    for clock, thread in zip(clocks.values(), threads, strict=True):
        clock.may_go.release()  # the last batch
        thread.join()
        if clock.failed is not None:
            raise clock.failed
    return {name: (first[name], clocks[name]) for name in fits}
