"""What a check of the initialisation knows of a run's parameters before they are first updated."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar
from weakref import WeakSet

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tuning.measure import plain_name

__all__ = ["History", "named_weights"]


class History:
    """Whether the weights of a run are fresh, as far as the run itself can tell.

    Attributes:
        is_fresh: the run does not resume or go on, and no run of this process has trained the module before.
        has_statistics: a batch norm had counted batches before the first step; it was loaded.
    """

    _trained: ClassVar[WeakSet[nn.Module]] = WeakSet()

    def __init__(self) -> None:
        self.is_fresh = self.has_statistics = False

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is about to start; everything is restored that will be. A device sync."""
        goes_on = bool(trainer.ckpt_path) or trainer.global_step > 0 or trainer.current_epoch > 0
        self.is_fresh = not goes_on and pl_module not in self._trained
        self._trained.add(pl_module)
        counts = [
            b
            for name, b in pl_module.named_buffers()
            if name.endswith("num_batches_tracked") and b.numel() == 1 and not b.is_meta
        ]
        self.has_statistics = bool(counts) and max(torch.stack([c.reshape(()) for c in counts]).tolist()) > 0


def named_weights(root: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """The parameters of ``root`` by the names that they have in a graph, and the names of those that are tied."""
    every = [(plain_name(name), parameter) for name, parameter in root.named_parameters(remove_duplicate=False)]
    uses = Counter(id(parameter) for _, parameter in every)
    return dict(every), {name for name, parameter in every if uses[id(parameter)] > 1}
