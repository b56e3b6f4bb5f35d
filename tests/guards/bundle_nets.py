"""Runs that go wrong in one batch, for a reason that a bundle must bring along: random numbers, buffers, precision."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers import CLASSES, ManualGAN, Mlp, TinyModule, blobs


def log_of(number: Tensor | float) -> Tensor:
    """Nothing, and NaN at 0."""
    return torch.as_tensor(number, dtype=torch.float32).log() * 0


@dataclasses.dataclass
class Samples:
    x: Tensor
    y: Tensor
    name: str


class DictBatch(Mlp):
    """A batch of a dict with a dataclass, text and something that cannot be kept in it."""

    def train_dataloader(self) -> DataLoader[Any]:
        def collate(items: Any) -> dict[str, Any]:
            x, y = map(torch.stack, zip(*items, strict=True))
            return {"samples": Samples(x, y, "blobs"), "idx": [0, (1, 2)], "weight": np.float32(0.0), "f": print}

        return DataLoader(blobs(64, self.shape), batch_size=16, collate_fn=collate)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        samples = batch["samples"]
        loss = F.cross_entropy(self(samples.x), samples.y)
        return loss + log_of(float(batch["weight"])) if samples.name == "blobs" and batch["idx"][1] == (1, 2) else loss


class RandomNumbers(Mlp):
    """Each generator's draw of the third batch is what goes wrong; those of other batches are others."""

    draws: tuple[float, ...] = ()
    unlucky: tuple[float, ...] = ()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        draws = (float(torch.rand(())), random.random(), float(np.random.rand()))
        type(self).draws = draws
        if batch_idx == 2 and not self.unlucky:
            type(self).unlucky = draws
        return super().training_step(batch, batch_idx) + log_of(float(draws != self.unlucky))


class Dropped(TinyModule):
    """Divides by the sum of a dropout mask."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        mask = self.net[1](torch.ones(4))
        return super().training_step(batch, batch_idx) + 0 / mask.sum()


class Statistics(Mlp):
    """Batch norm, whose statistics the bad batch itself poisons, and a buffer of the module's own that is not saved."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.seen += 1
        x = torch.where(self.seen == 3, x / 0, x)
        return F.cross_entropy(self(self.norm(x)), y)


class Tied(Mlp):
    """Two layers with one weight."""

    def build(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, CLASSES))
        net[2].weight = net[0].weight
        return net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + log_of(float(batch_idx != 2))


class Rounded(Mlp):
    """Bad where 1.001 is 1, as in bfloat16; finite in float32."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        one = F.linear(torch.full((1, 8), 1.001 if batch_idx == 2 else 2.0), torch.eye(8))
        return super().training_step(batch, batch_idx) + (one - 1).log().sum() * 0


class Overflowing(Mlp):
    """Bad where 90,000 is too much, as in float16; finite in float32 and bfloat16."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        large = F.linear(torch.full((1, 8), 300.0 if batch_idx == 2 else 1.0), torch.eye(8) * 300)
        return super().training_step(batch, batch_idx) + large.sum() * 0


class Modes(Mlp):
    """An eval mode and a frozen weight that the run set, both of which the bad number depends on."""

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()
        self.net[0].weight.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        as_set = not self.net[1].training and self.net[3].training and not self.net[0].weight.requires_grad
        return super().training_step(batch, batch_idx) + log_of(float(not (as_set and batch_idx == 2)))


class Clock(Mlp):
    """Bad at what the trainer says of the run."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        trainer = self.trainer
        (group,) = self.optimizers().param_groups
        now = (self.global_step, self.current_epoch, trainer.max_epochs, trainer.num_training_batches, group["lr"])
        return super().training_step(batch, batch_idx) + log_of(float((*now, self.planned) != (11, 1, 3, 8, 0.025, 24)))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        self.planned = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch + 1))]


class Moving(Mlp):
    """An attribute that the run moves, a setting that it does not, and a state carried from step to step."""

    def __init__(self, eps: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.eps, self.beta, self.state = eps, 1.0, torch.zeros(1)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.beta = float(batch_idx != 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.state = self.state.detach() + 1
        return super().training_step(batch, batch_idx) + log_of(self.beta + self.eps + float(self.state < 4))


class LazyNet(Mlp):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.Linear(8, CLASSES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + log_of(float(batch_idx != 2))

    def configure_optimizers(self) -> Any:
        self.net(torch.zeros(1, 8))
        return super().configure_optimizers()


class Configured(Mlp):
    """Built by ``configure_model`` and ``setup``, whose data may be missing elsewhere."""

    reachable = True

    def build(self) -> nn.Module:
        return nn.Identity()

    def setup(self, stage: str) -> None:
        self.factor = 0.0
        if not self.reachable:
            raise FileNotFoundError("no data here")

    def configure_model(self) -> None:
        if isinstance(self.net, nn.Identity):
            self.net = nn.Linear(8, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + log_of(float(batch_idx != 2) + self.factor)


class Gradient(Mlp):
    """A finite loss whose gradient is not."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + (self.net[0].weight * 0).square().sum().sqrt() if batch_idx == 2 else loss


class UnluckyGAN(ManualGAN):
    """The generator's loss is lost, after the discriminator has stepped."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, sign, offset in zip(self.optimizers(), (1, -1), (1.0, float(batch_idx != 2)), strict=True):
            fake = self.net["generator"](torch.randn(len(batch[0]), self.latent))
            optimizer.zero_grad()
            self.manual_backward(F.softplus(sign * self(fake)).mean() + log_of(offset))
            optimizer.step()


class Lines(Mlp):
    """Goes wrong as its argument says."""

    def __init__(self, wrong: Callable[[Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wrong = wrong

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + self.wrong(loss) if batch_idx == 2 else loss
