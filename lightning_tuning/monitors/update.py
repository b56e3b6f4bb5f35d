"""LT604 and LT605: how far does an update move the weights?"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.functional import tensor_norms
from lightning_tuning.measure import optimizer_index, plain_name
from lightning_tuning.rules._optimizers import named_groups
from lightning_tuning.rules._update_ratios import WeightUpdate
from lightning_tuning.rules._weight_facts import is_whole
from lightning_tuning.rules.update_too_large import LargeUpdates
from lightning_tuning.rules.update_too_small import SmallUpdates
from lightning_tuning.runtime import Desk, Sparing, TuningCallback

__all__ = ["UpdateMonitor"]

_EXPLAIN_REST = frozenset({"LT602", "LT603", "LT606"})
"""No gradient, or a clipped one, no update: what these have said need not be said of the updates."""
_COARSE = (torch.bfloat16, torch.float16)
_FEWEST = 16
"""Elements of a weight, below which a ratio of norms says nothing."""


@dataclasses.dataclass
class _Copy:
    """Weights before an update, on their way to become it; ``coarse`` are those in half precision."""

    names: list[str]
    weights: list[Tensor]
    before: list[Tensor]
    facts: dict[str, tuple[str, float]]
    coarse: frozenset[str]
    optimizer: int
    step: int
    epoch: int


class UpdateMonitor(TuningCallback):
    """Measures how far single updates move the weights, for their size (LT604, LT605).

    Why: norm(update) / norm(weight) is what a learning rate comes to, whatever the optimizer, the scale of the loss and
    of the weights. About 1e-3 is usual; a tenth throws away what was learned, a hundred thousandth gets nowhere. Both
    become a warning only in a run that does not learn; while it learns nothing is said, and of a rate that warms up or
    has come down by its schedule neither. (Of weights before a normalization, whose scale means nothing, the ratio is
    how far they turn: it falls as they grow, which a weight decay keeps them from.)

    Measured is the real step: weights of two dimensions and more (no embeddings for LT605, whose rows rest) are copied
    before it and compared after it, every ``every_n_steps``; clipping, momentum and decoupled weight decay are part of
    it. Peak memory: one copy of at most ``elements`` numbers of the weights; larger nets take turns. Sharded and sparse
    weights are left out. A step that a GradScaler leaves out is no reading. Changes nothing and never waits for the
    device.

    Logs ``tuning/update_ratio`` (median over the weights of that turn; no unit), ``tuning/update_ratio_min`` and
    ``tuning/update_ratio_max`` through the trainer's loggers, at the sampled steps that Lightning logs; with several
    optimizers ``tuning/update_ratio/optimizer_0`` and so on.

    Args:
        every_n_steps: steps of an optimizer from one measurement to the next; 50 by default, at which the copy costs
            next to nothing, and as often as Lightning logs.
        elements: copied at a time; 2**24 by default, 64 MB in float32. A larger single weight is copied whole.
        too_large: ratio above which an update is too large; 1e-1 by default.
        too_small: ratio below which it is too small; 1e-5 by default.

    Raises:
        ValueError: if ``every_n_steps`` or ``elements`` is no whole number of at least 1, or a ratio is not above 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[UpdateMonitor()], logger=False, accelerator="cpu")

    Source: Karpathy, CS231n, 'Ratio of weights:updates'; Ben Braiek & Khomh 2023, TheDeepChecker.
    """

    def __init__(
        self, every_n_steps: int = 50, elements: int = 2**24, too_large: float = 1e-1, too_small: float = 1e-5
    ) -> None:
        for name, count in (("every_n_steps", every_n_steps), ("elements", elements)):
            if type(count) is not int or count < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {count!r}.")
        for name, ratio in (("too_large", too_large), ("too_small", too_small)):
            if type(ratio) not in (int, float) or not ratio > 0:
                raise ValueError(f"`{name}` must be above 0, got {ratio!r}.")
        self.every_n_steps, self.elements = every_n_steps, elements
        self.too_large, self.too_small = too_large, too_small
        self._begin()

    def _begin(self) -> None:
        self._seen: dict[int, int] = {}
        self._turns: dict[int, int] = {}
        self._highest: dict[str, float] = {}
        self._copies: dict[int, _Copy] = {}
        self._large, self._small = LargeUpdates(self.too_large), SmallUpdates(self.too_small)
        self._looked_up: set[str] = set()
        self._is_scaled = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            Desk.of(trainer).watch_loss()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn whose rows rest, and whether steps may be left out."""
        self._is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        found = {f"{path}.weight" for path, module in pl_module.named_modules() if isinstance(module, tables)}
        self._looked_up = {plain_name(name) for name in found}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Count; now and then keep the weights as they are."""
        key = id(optimizer)
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        if self._copies and key in self._copies and self._copies[key].step != trainer.global_step:
            self._measure(trainer, key)  # its second step within a batch
        for where, group in _groups(trainer, optimizer) if seen == 1 else ():
            self._relative_lr(where, group)  # it may be the highest
        if seen % self.every_n_steps == 0 and key not in self._copies:
            with Sparing(Desk.of(trainer).journal, self):
                self._copy(trainer, pl_module, optimizer)

    def tuning_state(self) -> dict[str, Any]:
        """The updates seen last."""
        return {
            "large": self._large.state_dict(),
            "small": self._small.state_dict(),
            "highest": dict(self._highest),
        }

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with them."""
        self._large.load_state_dict(state["large"])
        self._small.load_state_dict(state["small"])
        self._highest = dict(state["highest"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": {}, "_turns": {}, "_copies": {}}  # they are of this process

    def _copy(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        name_of = {id(p): plain_name(name) for name, p in pl_module.named_parameters()}
        held: dict[str, Tensor] = {}
        facts: dict[str, tuple[str, float]] = {}
        for where, group in _groups(trainer, optimizer):
            relative = self._relative_lr(where, group)
            for p in group["params"] if relative > 0 else ():
                is_compared = p.grad is not None and p.ndim >= 2 and p.numel() >= _FEWEST and id(p) in name_of
                if is_compared and is_whole(p) and not p.grad.is_sparse:
                    held[name_of[id(p)]], facts[name_of[id(p)]] = p, (where, relative)
        names = self._turn(id(optimizer), held)
        if not names:
            return
        weights = [held[name].detach() for name in names]
        before = [weight.clone() for weight in weights]
        coarse = frozenset(name for name in names if held[name].dtype in _COARSE)
        index = optimizer_index(trainer, optimizer)
        copy = _Copy(names, weights, before, facts, coarse, index, trainer.global_step, trainer.current_epoch)
        self._copies[id(optimizer)] = copy
        Desk.of(trainer).watch("train_batch_end", self._finish)

    def _relative_lr(self, where: str, group: dict[str, Any]) -> float:
        """The group's rate over its highest; 0 where nothing moves, 1 where it is a tensor (to read it may wait)."""
        lr = group.get("lr")
        if not isinstance(lr, int | float):
            return 1.0
        initial = group.get("initial_lr", 0.0)
        known = [float(rate) for rate in (lr, initial) if isinstance(rate, int | float)]
        self._highest[where] = highest = max(*known, self._highest.get(where, 0.0), 0.0)
        return lr / highest if highest > 0 else 0.0

    def _turn(self, key: int, held: dict[str, Tensor]) -> list[str]:
        """Whose turn it is: as many as fit into the bound, from where the last one ended."""
        names = list(held)
        start = self._turns.get(key, 0) % max(1, len(names))
        names = names[start:] + names[:start]
        taken: list[str] = []
        count = 0
        for name in names:
            count += held[name].numel()
            if taken and count > self.elements:
                break
            taken.append(name)
        self._turns[key] = start + len(taken)
        return taken

    def _finish(self, trainer: Trainer, *_: Any) -> bool:
        """The batch has ended, and with it the step."""
        for key in list(self._copies):
            self._measure(trainer, key)
        return True

    def _measure(self, trainer: Trainer, key: int) -> None:
        """Send the norms of the update and of the weights on their way; the copy is gone after this."""
        copy, desk = self._copies.pop(key), Desk.of(trainer)
        sizes = tensor_norms(copy.before)
        for before, weight in zip(copy.before, copy.weights, strict=True):
            before.sub_(weight)
        several = f"/optimizer_{copy.optimizer}" if len(trainer.optimizers) > 1 else ""
        log_step = desk.meter.log_step

        def receive(numbers: list[list[float]]) -> None:
            ratios = [
                change / size if size > 0 else math.nan  # of zeros nothing can be said
                for change, size in zip(*numbers, strict=True)
            ]
            if self._is_scaled and not any(numbers[0]):
                return  # the scaler has left the step out
            if desk.meter.details:
                named = dict(zip(copy.names, ratios, strict=True))
                desk.meter.details.publish("update_ratio", copy.step, copy.epoch, named)
            if log_step is not None and (known := [ratio for ratio in ratios if math.isfinite(ratio)]):
                self._log(desk, several, known, log_step)
            with Sparing(desk.journal, self):
                self._judge(desk, copy, ratios)

        desk.meter.put([tensor_norms(copy.before), sizes], receive)
        copy.before, copy.weights = [], []

    def _log(self, desk: Desk, several: str, ratios: list[float], step: int) -> None:
        numbers = {"": statistics.median(ratios), "_min": min(ratios), "_max": max(ratios)}
        desk.meter.log({f"tuning/update_ratio{name}{several}": value for name, value in numbers.items()}, step)

    def _judge(self, desk: Desk, copy: _Copy, ratios: list[float]) -> None:
        updates = {name: WeightUpdate(ratio, *copy.facts[name]) for name, ratio in zip(copy.names, ratios, strict=True)}
        small = {
            name: one
            for name, one in updates.items()
            if name not in self._looked_up and (one.ratio > 0 or name in copy.coarse)  # 0 is no gradient, or rounding
        }
        found = [self._large.judge(copy.step, updates), self._small.judge(small)]
        if desk.progress.state in ("learning", "converged"):
            return
        is_explained = any(known.code in _EXPLAIN_REST for known in desk.journal.findings)
        for finding in found if not (desk.progress.mute or is_explained) else found[:1]:
            if finding is not None:
                desk.journal.report(finding, step=copy.step, epoch=copy.epoch)


def _groups(trainer: Trainer, optimizer: Optimizer) -> list[tuple[str, dict[str, Any]]]:
    return named_groups(optimizer, optimizer_index(trainer, optimizer), several=len(trainer.optimizers) > 1)
