"""Nets of which only a part is trained."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.quiet.data import TensorDataset, digit_loaders, digits, loaders, seeded
from tests.quiet.pretrained import FEATURES, pretrained, pretrained_backbone, turned_digits
from tests.quiet.zoo import Goal, Net


class _Scored(pl.LightningModule):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(-1) == y).float().mean())


class FrozenBatchNorm(_Scored):
    """Everything is fine-tuned but the normalisation, which keeps statistics, scales and shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = pretrained_backbone()
        self.head = nn.Linear(FEATURES, 4)
        self._freeze()

    def _freeze(self) -> None:
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        groups = [{"params": self.backbone.parameters(), "lr": 1e-3}, {"params": self.head.parameters(), "lr": 1e-2}]
        return torch.optim.AdamW(groups)


class LoRALinear(nn.Module):
    """Hu et al. 2022: a frozen matrix plus a trained one of low rank that begins at zero."""

    def __init__(self, frozen: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.empty(rank, frozen.in_features))
        self.lora_b = nn.Parameter(torch.zeros(frozen.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + (x @ self.lora_a.T @ self.lora_b.T) * self.scaling


class LoRA(_Scored):
    """Adapts a net for upright digits to turned ones."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(196, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
        )
        self._pretrain()
        for at in (1, 3):
            self.net[at] = LoRALinear(self.net[at], rank=8)
        self.net[5] = nn.Linear(96, 4)

    def _pretrain(self) -> None:
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=2e-3)
        for _ in range(5):
            for x, y in digit_loaders()[0]:
                optimizer.zero_grad()
                F.cross_entropy(self.net(x), y).backward()
                optimizer.step()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=5e-3)


class LinearProbe(_Scored):
    """A linear layer on features that are computed once and for all: the backbone is not even a submodule's child."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.probe(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


def features():
    body = pretrained_backbone().eval()
    parts = []
    with torch.no_grad():
        for part in digits():
            images, labels = part.tensors
            parts.append((body(images), labels))
    mean, std = parts[0][0].mean(0), parts[0][0].std(0) + 1e-3
    return loaders(tuple(TensorDataset((x - mean) / std, y) for x, y in parts), 64)


class FeatureExtractor(_Scored):
    """Lightning's own transfer recipe: ``eval()`` and ``no_grad`` in ``forward``; requires_grad stays as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = pretrained_backbone()
        self.feature_extractor.eval()
        self.classifier = nn.Linear(FEATURES, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.feature_extractor.eval()
        with torch.no_grad():
            representations = self.feature_extractor(x).flatten(1)
        return self.classifier(representations)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-2)


class HeadOnly(_Scored):
    """The backbone computes gradients that nobody uses: the optimizer was only given the head."""

    def __init__(self) -> None:
        super().__init__()
        self.model = pretrained()
        self.model[1] = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.model[1].parameters(), lr=5e-3)


class BatchNormAffineDetector(pl.LightningModule):
    """Where is the digit? Detectors train on few images, with the backbone's statistics: eval mode, affine trained."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = pretrained_backbone()[:-2]
        self.neck = nn.Sequential(nn.Conv2d(FEATURES, 32, 3, padding=1), nn.ReLU())
        self.score = nn.Conv2d(32, 1, 1)
        self.box = nn.Conv2d(32, 2, 1)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.neck(self.backbone(x))
        return self.score(features).flatten(1), self.box(features).flatten(2)

    def training_step(self, batch, batch_idx):
        images, cells, offsets = batch
        score, box = self(images)
        classification = F.cross_entropy(score, cells)
        chosen = box.gather(2, cells.view(-1, 1, 1).expand(-1, 2, 1)).squeeze(2)
        localisation = F.smooth_l1_loss(chosen, offsets)
        return classification + localisation

    def validation_step(self, batch, batch_idx):
        images, cells, _ = batch
        self.log("val_hits", (self(images)[0].argmax(1) == cells).float().mean())

    def configure_optimizers(self):
        backbone = [p for p in self.backbone.parameters() if p.requires_grad]
        head = [p for module in (self.neck, self.score, self.box) for p in module.parameters()]
        groups = [{"params": backbone, "lr": 0.005}, {"params": head}]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-4)


def digits_on_a_canvas():
    parts = []
    for seed, part in enumerate(digits()):
        images = part.tensors[0][:640]
        count, generator = len(images), seeded(seed)
        corner = torch.randint(0, 15, (count, 2), generator=generator)
        canvas = torch.full((count, 1, 28, 28), float(images.min()))
        for at, (row, column) in enumerate(corner.tolist()):
            canvas[at, :, row : row + 14, column : column + 14] = images[at]
        centre = (corner + 7).float() / 4
        cell = centre.long()
        parts.append(TensorDataset(canvas, 7 * cell[:, 0] + cell[:, 1], centre - cell - 0.5))
    return loaders(tuple(parts), 16)


NETS = [
    Net("frozen_bn_fine_tune", FrozenBatchNorm, Goal("val_acc", at_least=0.7), turned_digits, {"max_epochs": 5}),
    Net("lora", LoRA, Goal("val_acc", at_least=0.75), turned_digits, {"max_epochs": 8}),
    Net("linear_probe", LinearProbe, Goal("val_acc", at_least=0.8), features, {"max_epochs": 20}, settles=True),
    Net(
        "feature_extractor_no_grad",
        FeatureExtractor,
        Goal("val_acc", at_least=0.55),
        turned_digits,
        {"max_epochs": 8},
    ),
    Net("head_only_optimizer", HeadOnly, Goal("val_acc", at_least=0.55), turned_digits, {"max_epochs": 6}),
    Net(
        "detector_bn_affine",
        BatchNormAffineDetector,
        Goal("val_hits", at_least=0.6),
        digits_on_a_canvas,
        {"max_epochs": 4},
    ),
]
