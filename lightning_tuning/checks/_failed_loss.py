"""The targets of a loss that has ended the run, wherever it ran: read from the traceback of its error."""

from __future__ import annotations

from types import FrameType

import torch.nn.functional as F

from lightning_tuning.checks._target_probe import TargetProbe
from lightning_tuning.findings import Finding
from lightning_tuning.rules.target_out_of_range import may_be_masked, target_out_of_range
from lightning_tuning.trace import Op, batch_tensors
from lightning_tuning.trace._source import Callers

__all__ = ["failed_loss"]

_LOSSES = {
    function.__code__: function.__name__
    for function in (F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
}


def failed_loss(error: BaseException) -> Finding | None:
    """LT104 of the loss that ``error`` came out of, in validation (the sanity check is the first to run) or training.

    Reads the targets back: on the CPU, where such an error tells of itself; a CUDA device that has failed answers with
    a ``RuntimeError``.

    Args:
        error: whose traceback still has the frames of the loss and its arguments.
    """
    frame, batch = _frames(error)
    if frame is None:
        return None
    arguments = frame.f_locals
    line = Callers().of(frame).source_line
    ignored = {"ignore_index": arguments["ignore_index"]} if "ignore_index" in arguments else {}
    op = Op(0, _LOSSES[frame.f_code], "", "", line, inputs=(), outputs=(), arguments=ignored)
    probe = TargetProbe()
    probe.foresee(op, (arguments["input"], arguments["target"]))
    for found, name in probe.found({} if batch is None else dict(batch_tensors(batch.f_locals["batch"]))):
        if not may_be_masked(None, op):
            return target_out_of_range(found, name)
    return None


def _frames(error: BaseException) -> tuple[FrameType | None, FrameType | None]:
    """The outermost frame of a loss in the traceback, and the nearest one around it that knows of a ``batch``."""
    batch, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code in _LOSSES:
            return frame, batch
        batch = frame if "batch" in frame.f_locals else batch
        trace = trace.tb_next
    return None, None
