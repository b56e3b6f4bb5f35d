"""What the callbacks of one trainer share: their base class, and the desk (journal, meter, progress, trace)."""

from lightning_tuning.runtime.callback import TuningCallback
from lightning_tuning.runtime.check import Check, FirstStep
from lightning_tuning.runtime.desk import CHECKPOINT_KEY, Desk
from lightning_tuning.runtime.logger_reporter import LoggerReporter
from lightning_tuning.runtime.sparing import Sparing

__all__ = ["CHECKPOINT_KEY", "Check", "Desk", "FirstStep", "LoggerReporter", "Sparing", "TuningCallback"]
