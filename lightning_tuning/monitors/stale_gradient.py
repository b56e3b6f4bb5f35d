"""LT607: are gradients set back between two updates?"""

from __future__ import annotations

import functools
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_tuning.findings import Finding
from lightning_tuning.monitors._gradient_trail import Trail
from lightning_tuning.rules._optimizers import parameter_names
from lightning_tuning.rules.stale_gradient import PERSISTENCE, stale_gradient
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.runtime.watching import Hook, Watcher
from lightning_tuning.runtime.zero_grad import has_own_zero_grad

__all__ = ["StaleGradientMonitor"]

_BATCHES = 10
"""Batches for each update that is to be watched, after which nobody waits for an optimizer that steps more rarely."""


class StaleGradientMonitor(TuningCallback):
    """Sees whether gradients are set back between two updates (LT607).

    Why: under manual optimization nobody calls ``zero_grad`` but you; without it each update goes along the sum of all
    batches so far. The loss still falls at first, which hides it. Said of gradients that an update left behind, that a
    backward pass added to as they were, and that went into the next update: three times in a row, and their values
    compared. Gradients that are set to ``None`` or zero at the step's start or end, accumulated over batches, belong to
    another optimizer's turn, or are written to by hand between two backward passes (kept on purpose: a gradient's
    moving average) are not.

    Watched are manual optimization and, in automatic optimization, an ``optimizer_zero_grad`` or ``zero_grad`` that is
    not Lightning's or torch's own; all other runs cost nothing. Nothing is seen of ``loss.backward()`` instead of
    ``self.manual_backward(loss)`` (the summary says so), of sparse gradients and of sharded parameters.

    Price: some 4 us for each parameter in a watched update; nothing in the others. Where it has come to suspect a loop
    it copies the four smallest gradients once and reads one number.

    Args:
        updates_per_epoch: of each optimizer, watched at the start of each epoch. Default 20: what a loop does it does
            every time, and a second phase of training begins with an epoch.

    Raises:
        ValueError: if ``updates_per_epoch`` is below 5: the first only leaves something behind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[StaleGradientMonitor()], logger=False, accelerator="cpu")

    Source: PyTorch documentation, "Zeroing out gradients in PyTorch".
    """

    def __init__(self, updates_per_epoch: int = 20) -> None:
        if type(updates_per_epoch) is not int or updates_per_epoch < PERSISTENCE + 2:
            raise ValueError(f"`updates_per_epoch` must be a whole number of at least 5, got {updates_per_epoch!r}.")
        self.updates_per_epoch = updates_per_epoch
        self._trails: list[Trail] = []
        self._handles: list[RemovableHandle] = []
        self._found: list[Finding] = []
        self._asked: set[Hook] = set()
        self._batches = self._backwards = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._let_go()
            Desk.of(trainer).watch("train_start", self._begin)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks off the optimizers."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Likewise."""
        if stage == "fit":
            self._let_go()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trails": [], "_handles": [], "_found": [], "_asked": set()}  # they are of this run

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Hook the optimizers whose gradients somebody else sets back."""
        raw = [getattr(optimizer, "optimizer", optimizer) for optimizer in trainer.optimizers]
        if not raw or not has_own_zero_grad(trainer, pl_module):
            return True
        if any(hasattr(parameter, "to_local") for parameter in pl_module.parameters()):
            _note(trainer, "the parameters are sharded")
            return True
        for number, optimizer in enumerate(raw):
            if isinstance(optimizer, torch.optim.Optimizer):
                name = type(optimizer).__name__ + (f" {number}" if len(raw) > 1 else "")
                self._trails.append(Trail(optimizer, name))
        self._watch(trainer, pl_module)
        Desk.of(trainer).watch("train_epoch_end", self._again)
        return True

    def _watch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, until each optimizer has made its updates."""
        self._batches = self._backwards = 0
        desk = Desk.of(trainer)
        for trail in self._trails:
            trail.updates = trail.in_a_row = 0
            on_update = functools.partial(self._on_update, trainer, pl_module, trail)
            self._handles.append(trail.optimizer.register_step_post_hook(on_update))
        looks: dict[Hook, Watcher] = {
            "before_backward": self._before_backward,
            "after_backward": self._after_backward,
            "train_batch_end": self._on_batch_end,
        }
        for hook in looks.keys() - self._asked:  # one that has not been called since it was to rest goes on
            desk.watch(hook, looks[hook])
        self._asked = {*looks}

    def _before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> bool:
        self._backwards += 1
        for trail in self._trails:
            trail.before_backward()
        return self._may_rest("before_backward")

    def _after_backward(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        for trail in self._trails:
            trail.after_backward()
        return self._may_rest("after_backward")

    def _may_rest(self, hook: Hook) -> bool:
        if self._handles:
            return False
        self._asked.discard(hook)
        return True

    def _on_update(self, trainer: Trainer, pl_module: LightningModule, trail: Trail, *_: Any) -> None:
        """An optimizer has stepped, in the middle of the user's code: what is found is said at the batch's end."""
        with Sparing(Desk.of(trainer).journal, self):
            if trail in self._trails and trail.on_update():
                names = parameter_names(pl_module)
                finding = stale_gradient(
                    [names.get(id(parameter), "a parameter of no module") for parameter in trail.stale],
                    updates=trail.in_a_row,
                    parameters=trail.total,
                    where=trail.where,
                    automatic=pl_module.automatic_optimization,
                )
                self._found += [] if finding is None else [finding]

    def _on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> bool:
        self._batches += 1
        found, self._found = self._found, []
        for finding in found:
            self.report(trainer, finding, once=True)
        self._trails = [trail for trail in self._trails if not (trail.is_acquitted or trail.in_a_row >= PERSISTENCE)]
        waits = any(trail.updates < self.updates_per_epoch for trail in self._trails)
        if waits and self._batches < _BATCHES * self.updates_per_epoch:
            return False
        if not self._backwards and any(trail.updates for trail in self._trails):
            _note(trainer, "no loss went through `self.manual_backward`")
            self._trails = []
        self._unhook()
        return self._may_rest("train_batch_end")

    def _again(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """The next epoch may be another phase of the training."""
        if not self._handles and self._trails:
            self._watch(trainer, pl_module)
        return not self._trails

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for trail in self._trails:
            trail.forget()

    def _let_go(self) -> None:
        self._unhook()
        self._trails, self._found, self._asked = [], [], set()


def _note(trainer: Trainer, why: str) -> None:
    Desk.of(trainer).journal.note(f"blind here: {why}. May have missed something: StaleGradientMonitor.")
