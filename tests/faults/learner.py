"""The module that all runs share; a fault is one argument of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from tests.faults.problems import Problem

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Any], Optimizer]


def sgd(lr: float, momentum: float = 0.9) -> MakeOptimizer:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def adam(lr: float) -> MakeOptimizer:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


class Learner(pl.LightningModule):
    """A classifier with its data.

    Args:
        problem: what it learns.
        net: gives the outputs.
        optimizer: is made of the parameters; SGD with momentum at the problem's own rate by default.
        schedule: is made of the optimizer and stepped after each batch.
        loss: of outputs and classes; the problem's own by default.
        train: makes the training loader; shuffled batches of the problem's data by default.
    """

    def __init__(
        self,
        problem: Problem,
        net: nn.Module,
        optimizer: MakeOptimizer | None = None,
        *,
        schedule: Callable[[Optimizer], Any] | None = None,
        loss: Loss | None = None,
        train: Callable[[], DataLoader] | None = None,
    ) -> None:
        super().__init__()
        self.problem, self.net = problem, net
        self._loss = problem.loss if loss is None else loss
        self._make_optimizer = sgd(problem.lr) if optimizer is None else optimizer
        self._make_schedule, self._make_train = schedule, train

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self._loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        outputs = self(x)
        self.log("val_loss", self.problem.loss(outputs, y))
        self.log("val_acc", self.problem.accuracy(outputs, y))

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.parameters())
        if self._make_schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._make_schedule(optimizer), "interval": "step"},
        }

    def train_dataloader(self) -> DataLoader:
        return self.problem.loader(self.problem.data()[0]) if self._make_train is None else self._make_train()

    def val_dataloader(self) -> DataLoader:
        val = self.problem.data()[1]
        return DataLoader(val, len(val))


def mlp(
    problem: Problem,
    depth: int = 3,
    width: int = 32,
    act: Callable[[], nn.Module] | None = nn.ReLU,
    *,
    init: Callable[[nn.Linear], Any] | None = None,
    end: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Weight layers of which all but the last are followed by ``act``.

    Args:
        problem: says what goes in and comes out.
        depth: weight layers.
        width: of the hidden ones.
        act: activation, ``None`` for none.
        init: applied to the hidden layers; torch's own by default.
        end: a module behind the last layer.
    """
    sizes = [problem.features, *[width] * (depth - 1), problem.outputs]
    layers: list[nn.Module] = []
    for i in range(depth):
        layer = nn.Linear(sizes[i], sizes[i + 1])
        layers.append(layer)
        if i < depth - 1:
            if init is not None:
                init(layer)
            if act is not None:
                layers.append(act())
    return nn.Sequential(*layers, *([] if end is None else [end()]))


def scaled_he(gain: float = 1.0) -> Callable[[nn.Linear], None]:
    """Weights of He's size times ``gain``, biases of 0."""

    def init(layer: nn.Linear) -> None:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():
            layer.weight *= gain
        nn.init.zeros_(layer.bias)

    return init


def torch_default(gain: float = 1.0) -> Callable[[nn.Linear], None]:
    """Torch's own weights times ``gain``, which lose the signal of a deep net with ReLU, and its own biases."""

    def init(layer: nn.Linear) -> None:
        with torch.no_grad():
            layer.weight *= gain

    return init


def healthy(problem: Problem, depth: int = 3) -> Learner:
    """The twin of most faults: ReLU, He's weights from four layers on, SGD with momentum."""
    return Learner(problem, mlp(problem, depth, init=scaled_he() if depth > 3 else None))
