"""How much the outputs differ between the samples of a batch, by a repetition of its step aside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.rules._head import comes_from_weights
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules.predicting_the_prior import Spread
from lightning_tuning.runtime.tracing import iterator_in
from lightning_tuning.trace import CannotReplay, Op, Recorder, replay
from lightning_tuning.trace.alone import AloneMode

__all__ = ["spread_of_outputs"]

_ROWS = 256
_CLASSES = ("cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss2d")
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_VALUES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


class _SpreadProbe:
    """Keeps, for each loss, the variances between samples of what it compares."""

    names: Collection[str] = (*_CLASSES, *_BINARY, *_VALUES)

    def __init__(self) -> None:
        self.measured: dict[int, tuple[Tensor, Tensor, int]] = {}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See one comparison."""
        if len(inputs) < 2 or inputs[0].dim() == 0 or inputs[1].dim() == 0:
            return
        prediction, target = (tensor.detach()[:_ROWS] for tensor in inputs[:2])
        if len(prediction) < 2 or len(prediction) != len(target):
            return
        prediction = prediction.float()
        if op.name in _CLASSES:
            if prediction.dim() < 2 or target.is_floating_point():
                return
            prediction = prediction.exp() if op.name.startswith("nll") else prediction.softmax(1)
            shares = _shares(target, prediction.shape[1], int(op.arguments.get("ignore_index", -100)))
            spread = prediction.var(0, correction=0).sum(0).mean(), 1 - shares.square().sum()
        else:
            prediction = prediction.sigmoid() if op.name.endswith("with_logits") else prediction
            spread = prediction.var(0, correction=0).mean(), target.float().var(0, correction=0).mean()
        self.measured[op.index] = *spread, len(prediction)


def _shares(target: Tensor, classes: int, ignored: int) -> Tensor:
    flat = target.reshape(-1)[: 16 * _ROWS]
    hits = (flat.unsqueeze(1) == torch.arange(classes, device=flat.device)) & (flat != ignored).unsqueeze(1)
    counts = hits.sum(0).float()
    return counts / counts.sum().clamp_min(1)


def spread_of_outputs(
    trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
) -> tuple[Spread, str] | None:
    """The outputs of the batch that is about to be used, and the module path of the layer that gives them.

    Of several comparisons the one whose outputs differ most. ``None`` where none is a function of torch's. Costs a
    forward pass, and reads a few numbers from the device.

    Raises:
        CannotReplay: where no step can be repeated.
    """
    if holder := iterator_in(pl_module):
        raise CannotReplay(f"`{holder}` is an iterator, of which a repetition of the step would use up a batch.")
    probe = _SpreadProbe()
    recorder = Recorder(pl_module, batch, [probe])
    for loss in replay(trainer, pl_module, batch, batch_idx, context=_alone(recorder)):
        recorder.mark_loss(loss)
    graph = recorder.graph
    found: list[tuple[Spread, LossTerm]] = []
    for term in graph.answer(loss_terms):
        if term.op.index in probe.measured:
            prediction, target, samples = probe.measured[term.op.index]
            found.append((Spread(float(prediction), float(target), samples), term))
    if not found:
        return None
    spread, term = max(found, key=lambda one: one[0].prediction / one[0].target if one[0].target > 0 else 0.0)
    layer = comes_from_weights(graph, term.prediction)
    return spread, (layer or term.op).module


@contextmanager
def _alone(recorder: Recorder) -> Iterator[None]:
    """Recorded, and with nothing sent to other ranks, which may not look at the same batch."""
    with AloneMode(), recorder:  # type: ignore[no-untyped-call]
        yield
