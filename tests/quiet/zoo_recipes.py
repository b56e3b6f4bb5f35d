"""Ordinary nets, trained in out of the ordinary ways."""

from __future__ import annotations

from collections.abc import Iterator

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR
from torch.utils.data import DataLoader, IterableDataset

from tests.quiet.classifier import Classifier, adamw, sgd
from tests.quiet.data import digit_loaders, digits, loaders, seeded
from tests.quiet.zoo import Goal, Net


def convnet(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))


class DropoutPerceptron(nn.Module):
    """Srivastava et al. 2014: some of the input dropped, half of the hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(196, 256), nn.Linear(256, 128), nn.Linear(128, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(torch.relu(self.fc1(x.flatten(1))))
        x = self.dropout(torch.relu(self.fc2(x)))
        return self.fc3(x)


class EpochSchedules(Classifier):
    """Warm-up, then cosine, one after the other, both counted in epochs."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        epochs = self.trainer.max_epochs
        warm_up = LinearLR(optimizer, start_factor=0.2, total_iters=1)
        rest = CosineAnnealingLR(optimizer, T_max=epochs - 1)
        return [optimizer], [SequentialLR(optimizer, [warm_up, rest], milestones=[1])]


class Stream(IterableDataset):
    """Points around four noisy spirals, made as they are asked for; nobody knows how many there are."""

    def __init__(self, batches: int, seed: int, batch_size: int = 64) -> None:
        self.batches, self.seed, self.batch_size = batches, seed, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = seeded(self.seed)
        for _ in range(self.batches):
            arm = torch.randint(4, (self.batch_size,), generator=generator)
            at = torch.rand(self.batch_size, generator=generator)
            angle = 3 * at + arm * (torch.pi / 2) + 0.25 * torch.randn(self.batch_size, generator=generator)
            yield 2.3 * torch.stack([at * angle.cos(), at * angle.sin()], dim=1), arm


def stream():
    return DataLoader(Stream(600, seed=0), batch_size=None), DataLoader(Stream(8, seed=1), batch_size=None)


class OwnLoaders(Classifier):
    """Brings its loaders, logs through torchmetrics, clips by value in its own hook, prints nothing."""

    def train_dataloader(self):
        return digit_loaders()[0]

    def val_dataloader(self):
        return digit_loaders()[1]

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        torch.nn.utils.clip_grad_value_(self.parameters(), 0.5)


class DigitsModule(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train, self.val = digits()

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True, generator=seeded(0))

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=160)


class DictBatches(pl.LightningModule):
    """Batches are dicts, the step returns one; RMSprop; an L1 penalty on the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(196, 64)
        self.second = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(F.leaky_relu(self.first(images.flatten(1))))

    def training_step(self, batch, batch_idx):
        logits = self(batch["image"])
        entropy = F.cross_entropy(logits, batch["label"])
        penalty = 1e-4 * self.first.weight.abs().sum()
        self.log("penalty", penalty)
        return {"loss": entropy + penalty, "logits": logits.detach()}

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch["image"]).argmax(-1) == batch["label"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), lr=1e-3)


def as_dicts():
    train, val = ([{"image": x, "label": y} for x, y in zip(*part.tensors, strict=True)] for part in digits())
    return loaders((train, val), 32)


NETS = [
    Net(
        "gradient_accumulation",
        lambda: Classifier(convnet(), adamw(4e-3)),
        Goal("val_acc", at_least=0.75),
        lambda: digit_loaders(14, 32),
        {"max_epochs": 5, "accumulate_grad_batches": 4},
    ),
    Net(
        "stochastic_weight_averaging",
        lambda: Classifier(perceptron(), sgd(0.05)),
        Goal("val_acc", at_least=0.8),
        digit_loaders,
        {"max_epochs": 10},
        callbacks=lambda: [StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=6, annealing_epochs=2)],
    ),
    Net(
        "moving_average_of_weights",
        lambda: Classifier(convnet(), adamw(3e-3)),
        Goal("val_acc", at_least=0.8),
        lambda: digit_loaders(14, 32),
        {"max_epochs": 5},
        callbacks=lambda: [EMAWeightAveraging(decay=0.95)],
    ),
    Net(
        "one_cycle",
        lambda: Classifier(
            convnet(),
            sgd(0.01),
            schedule=lambda optimizer, steps: OneCycleLR(optimizer, max_lr=0.2, total_steps=steps),
        ),
        Goal("val_acc", at_least=0.85),
        digit_loaders,
        {"max_epochs": 6},
    ),
    Net(
        "bf16_mixed",
        lambda: Classifier(perceptron(), adamw(2e-3)),
        Goal("val_acc", at_least=0.8),
        digit_loaders,
        {"max_epochs": 8, "precision": "bf16-mixed"},
    ),
    Net(
        "iterable_dataset",
        lambda: Classifier(
            nn.Sequential(nn.Linear(2, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4)),
            adamw(1e-2),
            classes=4,
        ),
        Goal("val_acc", at_least=0.75),
        stream,
        {"max_steps": 600, "max_epochs": -1},
        settles=True,
    ),
    Net(
        "label_smoothing_cosine",
        lambda: EpochSchedules(convnet(), loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        Goal("val_acc", at_least=0.85),
        lambda: digit_loaders(14, 32),
        {"max_epochs": 6},
    ),
    Net(
        "dropout_perceptron",
        lambda: Classifier(DropoutPerceptron(), sgd(0.1)),
        Goal("val_acc", at_least=0.75),
        digit_loaders,
        {"max_epochs": 12},
    ),
    Net(
        "own_loaders_clip_by_value",
        lambda: OwnLoaders(perceptron(), sgd(0.05)),
        Goal("val_acc", at_least=0.8),
        trainer={"max_epochs": 8},
    ),
    Net(
        "data_module",
        lambda: Classifier(perceptron(), lambda parameters: torch.optim.Adagrad(parameters, lr=0.02)),
        Goal("val_acc", at_least=0.8),
        lambda: (None, None, DigitsModule()),
        {"max_epochs": 6, "num_sanity_val_steps": 0, "val_check_interval": 0.5},
    ),
    Net("dict_batches_l1", DictBatches, Goal("val_acc", at_least=0.8), as_dicts, {"max_epochs": 6}),
]
