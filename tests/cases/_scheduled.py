"""A healthy net whose schedule a case chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from tests.helpers import Mlp, blobs


class Scheduled(Mlp):
    """The plain MLP on shuffled data, with a learning rate schedule.

    Args:
        schedule: makes the scheduler.
        lr: as in ``TinyModule``, like ``batches``.
        config: the rest of the scheduler's entry (``interval``, ``frequency``, ``monitor``).
    """

    def __init__(
        self, schedule: Callable[[Optimizer], LRScheduler], *, lr: float = 0.1, batches: int = 8, **config: Any
    ) -> None:
        super().__init__(lr, batches=batches)
        self.schedule, self.config = schedule, config

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), **self.config}}

    def train_dataloader(self) -> DataLoader[Any]:
        data = blobs(self.batches * self.batch_size, self.shape, seed=self.seed)
        return DataLoader(data, batch_size=self.batch_size, shuffle=True)
