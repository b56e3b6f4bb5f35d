"""What the callbacks of one trainer share: their base class, and the desk (journal, meter, progress, trace)."""

from lightning_tuning.runtime.callback import CHECKPOINT_KEY, TuningCallback
from lightning_tuning.runtime.desk import Desk

__all__ = ["CHECKPOINT_KEY", "Desk", "TuningCallback"]
