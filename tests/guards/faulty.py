"""Runs in which chosen batches go wrong, and a witness of what a batch changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision, MulticlassRecall

from tests.helpers import CLASSES, BNConvNet, ManualGAN, Mlp, blobs


def sample(x: Tensor) -> Tensor:
    x = x.clone()
    x[5].view(-1)[2] = float("nan")
    return x


class _Faulty:
    """Mixed into a classifier: batch ``i`` of the run goes wrong as ``faults[i]`` says.

    ``"sample"``: NaN in sample 5. ``"nan"``, ``"inf"``: a loss of that value, finite gradients. ``"log"``: log of 0.
    ``"gradient"``: a finite loss with NaN gradients. ``"none"``: no loss at all.
    """

    def __init__(self, faults: Mapping[int, str] | None = None, without: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults, self.without, self.seen = dict(faults or {}), without, 0
        self.batch_losses: list[Tensor] = []

    def train_dataloader(self) -> DataLoader[Any]:
        data = blobs(self.batches * self.batch_size, self.shape, seed=self.seed)
        batches = [data[i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.batches)]
        bad = [i for i, fault in self.faults.items() if fault == "sample"]
        items = [(sample(x) if i in bad else x, y, i) for i, (x, y) in enumerate(batches) if i not in self.without]
        return DataLoader(items, batch_size=None)

    def training_step(self, batch: tuple[Tensor, Tensor, int], batch_idx: int) -> Tensor | None:
        x, y, number = batch
        fault = self.faults.get(number)
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        if fault in ("nan", "inf"):
            loss = loss + float(fault)
        elif fault == "log":
            loss = loss + (logits.sum() * 0).log() * 0
        elif fault == "gradient":
            loss = loss + (logits * 0).sum().sqrt()
        elif fault == "none":
            return None
        self.record(loss, logits, y)
        return loss

    def record(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(y))
        self.log("worst", loss, on_step=False, on_epoch=True, reduce_fx="max", batch_size=len(y))


class FaultyMlp(_Faulty, Mlp):
    def __init__(self, faults: Mapping[int, str] | None = None, optimizer: Any = None, **kwargs: Any) -> None:
        super().__init__(faults, **kwargs)
        self.make_optimizer = optimizer

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers() if self.make_optimizer is None else self.make_optimizer(self.parameters())


class FaultyBN(_Faulty, BNConvNet):
    """With batch norm, a logged metric, and a logged collection whose members share states."""

    def __init__(self, faults: Mapping[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(faults, **kwargs)
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.several = MetricCollection(
            {"precision": MulticlassPrecision(CLASSES), "recall": MulticlassRecall(CLASSES)}
        )

    def record(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        super().record(loss, logits, y)
        self.accuracy(logits, y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.several(logits, y)
        self.log_dict(self.several, on_step=False, on_epoch=True)


class FaultyGAN(ManualGAN):
    """The discriminator's (``"d"``) or the generator's (``"g"``) loss of batch ``i`` is NaN."""

    def __init__(self, faults: Mapping[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults = dict(faults or {})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        optimizer_d, optimizer_g = self.optimizers()
        fault = self.faults.get(batch_idx)
        fake = self.net["generator"](torch.randn(len(x), self.latent))
        loss_d = F.softplus(-self(x)).mean() + F.softplus(self(fake.detach())).mean()
        loss_d = loss_d * float("nan") if fault == "d" else loss_d
        optimizer_d.zero_grad()
        self.manual_backward(loss_d)
        optimizer_d.step()
        loss_g = F.softplus(-self(fake)).mean()
        loss_g = loss_g * float("nan") if fault == "g" else loss_g
        optimizer_g.zero_grad()
        self.manual_backward(loss_g)
        optimizer_g.step()
        self.log_dict({"loss_d": loss_d, "loss_g": loss_g}, on_epoch=True, on_step=True)


def everything(module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Parameters, buffers, optimizer states and metric states, as copies."""
    metrics = {
        name: [metric.metric_state, metric.update_count]
        for name, metric in module.named_modules()
        if hasattr(metric, "metric_state") and hasattr(metric, "update_count")
    }
    states = [optimizer.state_dict() for optimizer in optimizers]
    return copy.deepcopy({"module": dict(module.state_dict()), "optimizers": states, "metrics": metrics})


def same(first: Any, second: Any) -> bool:
    """Bit for bit."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


class Witness(pl.Callback):
    """Stands behind the guard and notes which batches changed something, and what was logged for each."""

    def __init__(self) -> None:
        self.changed: list[bool] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._before = everything(pl_module, trainer.optimizers)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.changed.append(not same(self._before, everything(pl_module, trainer.optimizers)))
        self.logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})
