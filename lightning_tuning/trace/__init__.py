"""One training step as a dataflow graph, and a step run apart with everything put back."""

from __future__ import annotations

from lightning_tuning.trace._live import why_not_live
from lightning_tuning.trace.aside import CannotReplay, aside, is_aside, replay
from lightning_tuning.trace.batch import batch_tensors
from lightning_tuning.trace.graph import Graph, Op, Value
from lightning_tuning.trace.nonfinite import Origin, find_origin
from lightning_tuning.trace.probe import EarlyProbe, Probe
from lightning_tuning.trace.recorder import Recorder
from lightning_tuning.trace.rng import RngState

__all__ = [
    "CannotReplay",
    "EarlyProbe",
    "Graph",
    "Op",
    "Origin",
    "Probe",
    "Recorder",
    "RngState",
    "Value",
    "aside",
    "batch_tensors",
    "find_origin",
    "is_aside",
    "replay",
    "why_not_live",
]
