"""What looks at the values of a recorded step; the graph itself holds metadata only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from lightning_tuning.trace.graph import Op

__all__ = ["EarlyProbe", "Probe"]


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


@runtime_checkable
class EarlyProbe(Probe, Protocol):
    """A probe that also sees the operations before they run, for those that would end the run if they did.

    A target beyond the last class is an ``IndexError`` on the CPU, and on CUDA an assertion after which nothing of the
    device can be read: what is to be said of it has to be on the host before. So this look, unlike the other one, may
    wait for the device.
    """

    def foresee(self, op: Op, inputs: Sequence[Tensor]) -> None:
        """See one operation that is about to run.

        Args:
            op: as it will be recorded, without its outputs.
            inputs: the tensors that it will read, in the order of ``op.inputs``.
        """
