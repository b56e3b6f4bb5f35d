"""Other ways to train the same module: each turns a run of a case into one that trains alike, otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from tests.cases import Run

__all__ = ["WAYS", "Way"]


@dataclasses.dataclass(frozen=True)
class Way:
    """What is done to a module before it trains, and to the arguments of its trainer."""

    module: Callable[[pl.LightningModule], pl.LightningModule] = lambda module: module
    trainer: Callable[[Mapping[str, Any]], dict[str, Any]] = dict

    def __call__(self, run: Run) -> Run:
        return dataclasses.replace(run, module=lambda: self.module(run.module()), trainer=self.trainer(run.trainer))


def _accumulated(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Half as many updates a batch, so twice the epochs."""
    if "accumulate_grad_batches" in trainer:
        return dict(trainer)
    epochs = trainer.get("max_epochs", 1)
    return {**trainer, "accumulate_grad_batches": 2, "max_epochs": epochs if epochs < 0 else 2 * epochs}


def _half(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {"precision": "bf16-mixed", **trainer}


def _by_hand(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning refuses these two under manual optimization; the module does the clipping."""
    return {name: value for name, value in trainer.items() if not name.startswith(("gradient_clip", "accumulate"))}


def _taught(module: pl.LightningModule, kind: type[pl.LightningModule]) -> pl.LightningModule:
    """``module`` with the methods of ``kind`` before its own."""
    own = type(module)
    module.__class__ = type(own.__name__, (kind, own), {"__module__": own.__module__, "__qualname__": own.__qualname__})
    return module


class _Manual(pl.LightningModule):
    """Optimizes by hand what its sibling optimizes automatically."""

    @property
    def automatic_optimization(self) -> bool:
        return False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().training_step(*args, **kwargs)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return None
        optimizers = self.optimizers()
        several = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in several:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in several:
            optimizer.step()
        self._tick("step")
        return loss.detach()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self._tick("epoch")

    def _tick(self, interval: str) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval:
                config.scheduler.step()


class _Split(_Manual):
    """Two optimizers of one kind, each with every other parameter."""

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        assert isinstance(configured, torch.optim.Optimizer), "a schedule is bound to its one optimizer"
        parts = []
        for first in (0, 1):
            groups = [{**group, "params": group["params"][first::2]} for group in configured.param_groups]
            parts.append(type(configured)([group for group in groups if group["params"]]))
        return parts


def _compiled(module: pl.LightningModule) -> pl.LightningModule:
    """Every child compiled, as users do it; the backend keeps the numbers, the trace cannot look inside."""
    for name, child in list(module.named_children()):
        if sum(p.numel() for p in child.parameters()):
            setattr(module, name, torch.compile(child, backend="eager"))
    return module


WAYS: dict[str, Way] = {
    "accumulated gradients": Way(trainer=_accumulated),
    "bfloat16": Way(trainer=_half),
    "manual optimization": Way(lambda module: _taught(module, _Manual), _by_hand),
    "two optimizers": Way(lambda module: _taught(module, _Split), _by_hand),
    "compiled": Way(_compiled),
}
