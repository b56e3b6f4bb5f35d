"""The training loss of a run as both of its judges see it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.guards._loss_feed import LossFeed, Sent
from lightning_tuning.rules.diverging_loss import DivergenceJudge
from lightning_tuning.rules.loss_spike import SpikeJudge

__all__ = ["LossWatch", "check_loss_arguments"]


def check_loss_arguments(*, factor: float, patience: int, window: int, recovery: int, zscore: float | None) -> None:
    """See that the arguments of a guard that judges losses make sense.

    Raises:
        ValueError: naming the argument, what it got and what is allowed.
    """
    for name, count, least in (("patience", patience, 1), ("recovery", recovery, 4), ("window", window, 40)):
        if type(count) is not int or count < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {count!r}.")
    if window <= patience + recovery:
        raise ValueError(f"`window` must be above `patience` + `recovery` = {patience + recovery}, got {window}.")
    for name, number, bound in (("factor", factor, 1), ("zscore", math.inf if zscore is None else zscore, 0)):
        if type(number) not in (int, float) or not number > bound:
            raise ValueError(f"`{name}` must be a number above {bound}, got {number!r}.")


class LossWatch:
    """Sends the losses on their way, and has them judged when they arrive: LT807 and LT802.

    Args:
        factor: of both judges.
        settings: of the :class:`SpikeJudge`.
    """

    def __init__(self, factor: float, **settings: Any) -> None:
        self._feed = LossFeed()
        self._spike = SpikeJudge(factor, **settings)
        self._divergence = DivergenceJudge(factor=factor)
        self._batch = Sent(0, math.nan)

    @property
    def is_well(self) -> bool:
        """Whether no spike is under way, nor what may become one."""
        return self._spike.began is None and self._divergence.began is None

    def batch_start(self, trainer: Trainer) -> None:
        """Remember when the batch was, and its learning rate."""
        self._batch = Sent(trainer.global_step, _highest_rate(trainer), float(trainer.accumulate_grad_batches))

    def batch_end(self, trainer: Trainer, outputs: Any) -> bool:
        """Send the loss on its way; whether an optimizer has stepped, so that one may act on what arrives."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._feed.send(self._batch, loss if isinstance(loss, Tensor) else None, trainer.strategy.root_device)
        return trainer.global_step != self._batch.step

    def arrived(self, *, everything: bool = False) -> Iterator[tuple[float, list[Finding]]]:
        """The losses that are due, with what is found; the same on every rank."""
        for sent, loss in self._feed.take(everything=everything):
            found = self._spike.judge(sent.step, loss, lr=sent.lr), self._divergence.judge(sent.step, loss)
            yield loss, [finding for finding in found if finding is not None]

    def close(self) -> Finding | None:
        """The run is over; see :meth:`SpikeJudge.close`."""
        return self._spike.close()

    def drop(self) -> None:
        """The weights were put back: what was under way says nothing of them."""
        self._feed.clear()
        self._spike.drop()
        self._divergence.drop()

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``. A device sync: for checkpoints."""
        return {
            "feed": self._feed.state_dict(),
            "spike": self._spike.state_dict(),
            "divergence": self._divergence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self._feed.load_state_dict(state["feed"])
        self._spike.load_state_dict(state["spike"])
        self._divergence.load_state_dict(state["divergence"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feed": LossFeed()}  # it is of this process


def _highest_rate(trainer: Trainer) -> float:
    """The highest learning rate of the run, NaN where it would have to be read from the device."""
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return max((float(rate) for rate in rates if not isinstance(rate, Tensor) or rate.is_cpu), default=math.nan)
