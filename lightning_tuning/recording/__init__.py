"""What a run leaves behind: the callback that keeps it in a folder and makes the report. Observers."""

from lightning_tuning.recording.report import TuningReport

__all__ = ["TuningReport"]
