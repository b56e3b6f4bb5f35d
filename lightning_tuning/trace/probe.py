"""What looks at the values of a recorded step; the graph itself holds metadata only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from torch import Tensor

from lightning_tuning.trace.graph import Op

__all__ = ["Probe"]


class Probe(Protocol):
    """Sees the tensors of the operations that it names, right after each has run, in the middle of the user's step.

    It computes what it wants to know on the device (a norm, a maximum) and keeps that, small and unread, by the index
    of the operation; who asked for the trace reads it when the graph is there. It runs without autograd and is not
    recorded itself. It must not write to a tensor, draw a random number, wait for the device, or keep what it was
    shown: the step is the real one.

    Attributes:
        names: canonical names of the operations that it wants to see.
    """

    names: Collection[str]

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See one operation.

        Args:
            op: as recorded so far.
            inputs: the tensors read, in the order of ``op.inputs``; one that the operation wrote into holds the result.
            outputs: the tensors made or written, in the order of ``op.outputs``.
        """
