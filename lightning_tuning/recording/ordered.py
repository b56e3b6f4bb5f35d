"""The records that ``lightning-tuning run`` asks for: a folder for each ``Trainer`` of the script."""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_tuning.findings.run_order import REPORT, RunOrder
from lightning_tuning.recording.report import TuningReport

__all__ = ["ordered_report"]

_numbers: weakref.WeakKeyDictionary[Trainer, int] = weakref.WeakKeyDictionary()
_count = itertools.count(1)


def ordered_report(order: RunOrder) -> TuningReport:
    """Keeps the first run of this process in the folder of ``order``, the second in ``folder-2``, and so on.

    A ``Trainer`` is counted when it begins to fit. The report lies in the folder; where the extra ``report`` is not
    installed there is none, which is warned of.
    """
    try:
        report = TuningReport(order.report, order.folder)
    except ImportError as error:
        warnings.warn(f"lightning-tuning run makes no report: {error}", RuntimeWarning, stacklevel=2)
        report = TuningReport(None, order.folder)
    report.place = functools.partial(_place, Path(order.folder))
    return report


def _place(folder: Path, trainer: Trainer) -> tuple[Path, Path]:
    number = _numbers.get(trainer)
    if number is None:
        number = _numbers[trainer] = next(_count)
    folder = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
    return folder, folder / REPORT
