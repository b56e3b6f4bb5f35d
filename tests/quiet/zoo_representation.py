"""Nets that learn without being told the class, or from another net."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.quiet.classifier import Classifier, adamw
from tests.quiet.data import digit_loaders
from tests.quiet.pretrained import pretrained
from tests.quiet.zoo import Goal, Net


def small_encoder(width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32 * 16, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
    )


def augment(images: Tensor) -> Tensor:
    """Each image shifted by at most one pixel, a rectangle of it erased, and noise over all."""
    batch, _, size, _ = images.shape
    shift = torch.randint(-1, 2, (batch, 2), device=images.device)
    at = torch.arange(size, device=images.device)
    rows = (at + shift[:, :1]).clamp(0, size - 1)
    columns = (at + shift[:, 1:]).clamp(0, size - 1)
    moved = images[torch.arange(batch).view(-1, 1, 1), 0, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)
    corner = torch.randint(0, size - 2, (batch, 2), device=images.device)
    hole = (at >= corner[:, :1]) & (at < corner[:, :1] + 3)
    hole = hole.unsqueeze(2) & ((at >= corner[:, 1:]) & (at < corner[:, 1:] + 3)).unsqueeze(1)
    return moved.masked_fill(hole.unsqueeze(1), float(images.min())) + 0.1 * torch.randn_like(images)


def views_found(encoder: nn.Module, images: Tensor, group: int = 64) -> Tensor:
    """How often, among the second views of ``group`` images, the nearest one is that of the same image."""
    found = []
    for some in images.split(group):
        first, second = (F.normalize(encoder(augment(some)), dim=1) for _ in range(2))
        found.append((first @ second.T).argmax(1) == torch.arange(len(some), device=images.device))
    return torch.cat(found).float().mean()


class NeighbourAccuracy:
    """How often the nearest other image, by its embedding, is of the same class."""

    def __init__(self) -> None:
        self.found: list[tuple[Tensor, Tensor]] = []

    def add(self, embedding: Tensor, labels: Tensor) -> None:
        self.found.append((F.normalize(embedding, dim=1), labels))

    def compute(self) -> Tensor:
        embeddings, labels = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        self.found.clear()
        similarity = embeddings @ embeddings.T
        similarity.fill_diagonal_(-2)
        return (labels[similarity.argmax(1)] == labels).float().mean()


class SimCLR(pl.LightningModule):
    """Chen et al. 2020: two views of each image find each other among all the others (NT-Xent)."""

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = temperature
        self.encoder = small_encoder()
        self.projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def training_step(self, batch, batch_idx):
        images, _ = batch
        both = torch.cat([augment(images), augment(images)])
        z = F.normalize(self.projector(self.encoder(both)), dim=1)
        similarity = z @ z.T / self.temperature
        own = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similarity = similarity.masked_fill(own, -9e15)
        positive = torch.arange(len(z), device=z.device).roll(len(images))
        nll = -similarity[torch.arange(len(z)), positive] + torch.logsumexp(similarity, dim=-1)
        return nll.mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_found", views_found(self.encoder, batch[0]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=4e-3, weight_decay=1e-4)


class SimSiam(pl.LightningModule):
    """Chen and He 2021: the gradient is stopped on one side, and nothing collapses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(small_encoder(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64, affine=False))
        self.predictor = nn.Sequential(
            nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 64)
        )

    def training_step(self, batch, batch_idx):
        images, _ = batch
        z1, z2 = self.encoder(augment(images)), self.encoder(augment(images))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        z1, z2 = z1.detach(), z2.detach()
        return -0.5 * (F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean())

    def validation_step(self, batch, batch_idx):
        self.log("val_found", views_found(self.encoder, batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


class BYOL(pl.LightningModule):
    """Grill et al. 2020: the target is a moving average of the net, kept as a submodule that nobody optimizes."""

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__()
        self.decay = decay
        self.online = nn.Sequential(small_encoder(), nn.Linear(64, 32))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def training_step(self, batch, batch_idx):
        images, _ = batch
        loss = 0.0
        first, second = augment(images), augment(images)
        for here, there in ((first, second), (second, first)):
            guess = F.normalize(self.predictor(self.online(here)), dim=-1)
            with torch.no_grad():
                goal = F.normalize(self.target(there), dim=-1)
            loss = loss + (2 - 2 * (guess * goal).sum(dim=-1)).mean()
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.decay)

    def validation_step(self, batch, batch_idx):
        self.log("val_found", views_found(self.online, batch[0]))

    def configure_optimizers(self):
        return torch.optim.Adam([*self.online.parameters(), *self.predictor.parameters()], lr=4e-3)


class Triplets(pl.LightningModule):
    """Embeds digits so that those of a class lie together; the hardest positive and negative of the batch."""

    def __init__(self, margin: float = 0.3) -> None:
        super().__init__()
        self.margin = margin
        self.embed = nn.Sequential(
            nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)
        )
        self.neighbours = NeighbourAccuracy()

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.embed(images), dim=-1)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        z = self(images)
        squared = (2 - 2 * z @ z.T).clamp(min=0)
        distance = (squared + 1e-6).sqrt()
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        positive = distance.masked_fill(~same, 0.0).amax(dim=1)
        negative = distance.masked_fill(same, 4.0).amin(dim=1)
        return F.softplus((positive - negative + self.margin) * 4).mean()

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.neighbours.add(self(images), labels)

    def on_validation_epoch_end(self):
        self.log("val_neighbours", self.neighbours.compute())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Siamese(pl.LightningModule):
    """The same net on both images of a pair, and a contrastive loss on their distance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(small_encoder(), nn.Linear(64, 16))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.pairwise_distance(self.encoder(a), self.encoder(b))

    @staticmethod
    def pairs(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half of the partners are of the same class: the neighbours once the batch is sorted by its classes."""
        images, labels = images[labels.argsort()], labels.sort().values
        shift = 1 if torch.rand(()) < 0.5 else len(images) // 2
        return images, images.roll(shift, 0), (labels == labels.roll(shift, 0)).float()

    def training_step(self, batch, batch_idx):
        a, b, same = self.pairs(*batch)
        distance = self(a, b)
        return torch.mean(same * distance**2 + (1 - same) * F.relu(2.0 - distance) ** 2)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        order = labels.argsort()
        images, labels = images[order], labels[order]
        right = [
            ((self(images, images.roll(shift, 0)) < 1.0) == (labels == labels.roll(shift, 0))).float().mean()
            for shift in (1, len(images) // 2)
        ]
        self.log("val_acc", sum(right) / 2)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Distillation(pl.LightningModule):
    """Hinton et al. 2015: the student hears the teacher's softened opinion and the class."""

    def __init__(self, temperature: float = 3.0, alpha: float = 0.7) -> None:
        super().__init__()
        self.temperature, self.alpha = temperature, alpha
        self.teacher = pretrained().eval().requires_grad_(False)
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(196, 48), nn.ReLU(), nn.Linear(48, 10))

    def train(self, mode: bool = True):
        super().train(mode)
        self.teacher.eval()
        return self

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            opinion = self.teacher(x)
        logits = self.student(x)
        soft = F.kl_div(
            F.log_softmax(logits / self.temperature, dim=1),
            F.softmax(opinion / self.temperature, dim=1),
            reduction="batchmean",
        )
        hard = F.cross_entropy(logits, y)
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self.student(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.student.parameters(), lr=3e-3)


class Mixup(Classifier):
    """Zhang et al. 2018: convex combinations of two samples and of their classes, through one hot targets."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        share = torch.distributions.Beta(0.4, 0.4).sample().item()
        partner = torch.randperm(len(x))
        x = share * x + (1 - share) * x[partner]
        targets = F.one_hot(y, 10).float()
        targets = share * targets + (1 - share) * targets[partner]
        return torch.sum(-targets * F.log_softmax(self(x), dim=-1), dim=-1).mean()


NETS = [
    Net(
        "simclr",
        SimCLR,
        Goal("val_found", at_least=0.3),
        digit_loaders,
        {"max_epochs": 8},
    ),
    Net("simsiam_stop_gradient", SimSiam, Goal("val_found", at_least=0.25), digit_loaders, {"max_epochs": 8}),
    Net("byol_moving_target", BYOL, Goal("val_found", at_least=0.3), digit_loaders, {"max_epochs": 6}),
    Net("triplets_hard", Triplets, Goal("val_neighbours", at_least=0.75), digit_loaders, {"max_epochs": 10}),
    Net("siamese_contrastive", Siamese, Goal("val_acc", at_least=0.7), digit_loaders, {"max_epochs": 6}),
    Net("distillation", Distillation, Goal("val_acc", at_least=0.8), digit_loaders, {"max_epochs": 10}),
    Net(
        "mixup",
        lambda: Mixup(nn.Sequential(small_encoder(), nn.Linear(64, 10)), adamw(3e-3)),
        Goal("val_acc", at_least=0.85),
        digit_loaders,
        {"max_epochs": 6},
    ),
]
