"""Runs in which no operation is to blame, but data, weights, the learning rate or the loop."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.cases.nan.case import INF, Culprit
from tests.helpers import CLASSES, Mlp, TinyModule, blobs


class Data(Mlp):
    """A classifier of blobs; samples 20 and 27 of its dataset, in batch 1, hold ``value``."""

    value: ClassVar[float] = math.nan

    def train_dataloader(self) -> DataLoader[Any]:
        inputs, labels = blobs(48).tensors
        inputs[[20, 27], 3] = self.value
        return DataLoader(TensorDataset(inputs, labels), batch_size=16)


class Infinite(Data):
    value = INF


class Regression(TinyModule):
    """Learns the first three features times ``scale``; ``reduction`` as for ``F.mse_loss``."""

    def __init__(self, *, reduction: str = "mean", scale: float = 1.0, optimizer: Any = torch.optim.SGD, **kwargs: Any):
        super().__init__(**{"batches": 40, **kwargs})
        self.reduction, self.scale, self.optimizer = reduction, scale, optimizer

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def targets(self, x: Tensor) -> Tensor:
        return x[:, :CLASSES] * self.scale

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        return F.mse_loss(self(x), target, reduction=self.reduction)

    def train_dataloader(self) -> DataLoader[Any]:
        inputs, _ = blobs(self.batches * self.batch_size).tensors
        return DataLoader(TensorDataset(inputs, self.targets(inputs)), batch_size=self.batch_size)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=self.lr)


class InfiniteTargets(Regression):
    """The target of sample 37, in batch 2, is infinite."""

    def targets(self, x: Tensor) -> Tensor:
        targets = super().targets(x).clone()
        targets[37, 0] = INF
        return targets


class Sensors(Dataset[dict[str, Any]]):
    """Samples as dictionaries; of sample 9 the whole depth image is NaN."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.full((4,), index / 32)
        return {
            "image": {"colour": image, "depth": image * (math.nan if index == 9 else 1.0)},
            "label": index % CLASSES,
        }


class TwoSensors(Mlp):
    """Batches are dictionaries."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = torch.cat([batch["image"]["colour"], batch["image"]["depth"]], dim=-1)
        return F.cross_entropy(self(x), batch["label"])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Sensors(), batch_size=4)


class Statistics(Mlp):
    """Normalizes by a buffer that was never filled in."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.full((8,), math.nan))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x / self.deviation), y)


class Breaks(pl.Callback):
    """Sets one weight to NaN after batch 2."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            with torch.no_grad():
                pl_module.net[2].weight[1, 1] = math.nan


def loaded() -> Mlp:
    """With weights of a run that was lost already."""
    model, lost = Mlp(), Mlp().state_dict()
    lost["net.4.bias"][0] = math.nan
    model.load_state_dict(lost)
    return model


class Recurrent(TinyModule):
    """A linear recurrence over six steps. In batch 5 the state grows, and with it the gradients; in 6 it overflows."""

    shape = (6, 4)

    def build(self) -> nn.Module:
        return nn.ModuleDict({"cell": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, CLASSES)})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        growth = {5: 4.0, 6: 1e8}.get(batch_idx, 1.0)
        state = x[:, 0]
        for step in range(1, 6):
            state = self.net["cell"](state) * growth + x[:, step]
        return F.mse_loss(self.net["head"](state), F.one_hot(y, CLASSES).float())


class NeverSetBack(Regression):
    """A manual loop without ``zero_grad``: momentum without end."""

    def __init__(self, *, clear: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False
        self.clear = clear

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        if self.clear == "before":
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        if self.clear == "zero":
            for parameter in self.parameters():
                parameter.grad.zero_()


class Changing(Mlp):
    """One step in three is NaN, by a counter that nobody can put back."""

    calls: ClassVar[int] = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        type(self).calls += 1
        return super().training_step(batch, batch_idx) * (math.nan if self.calls == 3 else 1.0)


class Overflowing(Regression):
    """An exponential whose argument follows the weights."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        return F.mse_loss(self(x).exp(), target)


def changing() -> Changing:
    Changing.calls = 0
    return Changing()


CULPRITS = [
    Culprit(
        "NaN in two samples", Data, "LT701", "bad-sample", where="batch[0]", remedy="filter the data",
        said=("batch[0] holds NaN in samples 4, 11 (dataset indices 20, 27) of batch 1: 2 of 128 values",),
    ),
    Culprit(
        "infinity in two samples", Infinite, "LT701", "bad-sample", where="batch[0]",
        said=("holds inf in samples 4, 11",),
    ),
    Culprit(
        "infinite target", lambda: InfiniteTargets(lr=0.01), "LT701", "bad-sample", where="batch[1]",
        said=("batch[1] holds inf in sample 5 (dataset index 37) of batch 2: 1 of 48 values",),
    ),
    Culprit(
        "key of a sample", TwoSensors, "LT701", "bad-sample", where="batch['image']['depth']",
        said=("batch['image']['depth'] holds NaN in sample 1 (dataset index 9) of batch 2: 4 of 16 values",),
    ),
    Culprit(
        "buffer never filled in", Statistics, "LT701", "bad-weights",
        said=("not finite before the step: deviation (8 of 8 values are NaN)",), remedy="nothing was trained yet",
    ),
    Culprit(
        "weight broken by a callback", Mlp, "LT703", "bad-weights", where="net.2.weight", callbacks=lambda: [Breaks()],
        said=("net.2.weight is not finite before batch 3",), remedy="last good checkpoint",
    ),
    Culprit(
        "weights loaded", loaded, "LT703", "bad-weights", where="net.4.bias",
        said=("not finite before the first step",), remedy="the file that was loaded",
    ),
    Culprit(
        "learning rate of SGD", lambda: Regression(lr=30.0), "LT701", "learning-rate",
        said=("updates was at least", "times as long as the weights", "with lr=30"), remedy="lower the learning rate",
    ),
    Culprit(
        "learning rate of Adam", lambda: Overflowing(lr=3.0, optimizer=torch.optim.Adam), "LT701", "learning-rate",
        said=("the last update was", "with lr=3"),
    ),
    Culprit(
        "learning rate of another optimizer", lambda: Overflowing(lr=5.0, optimizer=torch.optim.RMSprop), "LT701",
        "learning-rate", said=("the norm of the weights grew from", "with lr=5"),
    ),
    Culprit(
        "exploding gradients", lambda: Recurrent(lr=1e-5), "LT701", "exploding-gradient",
        said=("gradients grew before: ",), remedy="gradient_clip_val",
    ),
    Culprit(
        "missing zero_grad", lambda: NeverSetBack(lr=0.1, batches=400), "LT701", "stale-gradient",
        said=("gradients were not set back once in",), remedy="zero_grad()", trainer={"max_epochs": 20},
    ),
    Culprit(
        "sum over the samples", lambda: Regression(lr=0.02, reduction="sum", batch_size=512, batches=30), "LT701",
        "sum-reduction", said=("the loss is a sum over 512 samples",), remedy="average",
    ),
    Culprit(
        "not reproduced", changing, "LT701", "not-reproduced", said=("the step was finite all 3 times",),
        remedy="deterministic=True",
    ),
]  # fmt: skip
