"""Numbers by name, of a step now and then: seldom enough that a long run's file stays small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Samples"]

_HUNDREDTH = 100
_NAMES = 200
"""Names in a sample, above which there are as much fewer samples: a file of one net's is as large as another's."""


class Samples:
    """Decides which samples are kept, and makes lines of them.

    Of each series there is one sample in ``every_n_steps`` steps, or in a hundredth of the steps so far if that is
    more: 100 in the first 5,000, and 230 more with each further decade. Of more than 200 names there are fewer.

    Args:
        write: is given each line.
        every_n_steps: see above.

    Example:
        >>> samples = Samples(print, every_n_steps=50)
        >>> for step in range(60):
        ...     _ = samples.take("dead_units", step, 0, 1.5, {"net.1": 0.25})
        {'kind': 'dead_units', 'step': 0, 'epoch': 0, 'seconds': 1.5, 'values': {'net.1': 0.25}}
        {'kind': 'dead_units', 'step': 50, 'epoch': 0, 'seconds': 1.5, 'values': {'net.1': 0.25}}
    """

    def __init__(self, write: Callable[[dict[str, Any]], None], every_n_steps: int) -> None:
        self._write, self._every = write, every_n_steps
        self._due: dict[object, int] = {}

    def is_due(self, series: object, step: int) -> bool:
        """Whether a sample of ``series`` would be kept at ``step``."""
        return step >= self._due.get(series, 0)

    def take(
        self,
        kind: str,
        step: int,
        epoch: int | None,
        seconds: float,
        values: Mapping[str, float],
        *,
        series: object = None,
        every: int | None = None,
    ) -> bool:
        """Keep a sample, if it is due; whether it was.

        Args:
            kind: of :class:`~lightning_tuning.reporters.run_record.Run`'s ``samples``.
            step: ``trainer.global_step``.
            epoch: ``trainer.current_epoch``, where it is known.
            seconds: since the beginning of the run.
            values: by name.
            series: what is counted by itself within ``kind``; default: all of it.
            every: steps from one to the next, in the place of ``every_n_steps``; 0 keeps all.
        """
        key = (kind, series)
        if not values or not self.is_due(key, step):
            return False
        if (wanted := self._every if every is None else every) > 0:
            self._due[key] = step + int(max(wanted, step / _HUNDREDTH) * max(1.0, len(values) / _NAMES))
        numbers = {name: float(f"{value:.7g}") for name, value in values.items()}  # as many digits as float32 has
        at = {"step": step, "epoch": epoch} if epoch is not None else {"step": step}
        self._write({"kind": kind, **at, "seconds": round(seconds, 3), "values": numbers})
        return True
