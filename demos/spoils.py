"""What the stories do to data and loss, and what they measure beside accuracy."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from mnist_data import Batches, Split
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Rates(pl.Callback):
    """Keeps the learning rate and the validation loss of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The rate is still that of the epoch."""
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.epochs.append((rate, float(trainer.callback_metrics["val_loss"])))

    def __str__(self) -> str:
        epochs = ", ".join(f"{loss:.3f} ({rate:.2g})" for rate, loss in self.epochs)
        return f"Validation loss (and learning rate) of each epoch: {epochs}"

    def journey(self) -> str:
        """The rates that there were, ``"0.5 -> 0.05"``."""
        return " -> ".join(dict.fromkeys(f"{rate:.2g}" for rate, _ in self.epochs))


def handmade_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy as the textbook writes it."""
    probabilities = logits.softmax(dim=1)
    return -probabilities.gather(1, labels[:, None]).log().mean()


def with_nan(split: Split) -> Split:
    """A square of NaN in four images."""
    images, every = split.images.clone(), len(split) // 4
    images[every // 2 :: every, :, 10:18, 10:18] = math.nan
    return Split(images, split.labels)


def with_grey_values(split: Split) -> Split:
    """Back from mean 0 and deviation 1 to 0 ... 255."""
    darkest, brightest = split.images.aminmax()
    return Split((split.images - darkest) * (255 / (brightest - darkest)), split.labels)


def accuracy_with_fresh_statistics(net: nn.Module, images: Split, test: Split) -> float:
    """Test accuracy once the batch norms have seen training images as the test shows them: with dropout off."""
    net.eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the batches
            module.train()
    with torch.no_grad():
        for batch, _ in Batches(images.first(5000), 500):
            net(batch)
        net.eval()
        right = [net(batch).argmax(1) == labels for batch, labels in Batches(test, 1000)]
    return float(torch.cat(right).float().mean())
