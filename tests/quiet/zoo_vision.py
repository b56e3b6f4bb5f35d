"""Nets that look at images."""

from __future__ import annotations

import itertools
import math

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.quiet.classifier import Classifier, adamw, sgd
from tests.quiet.data import TensorDataset, digit_loaders, digits, loaders, seeded
from tests.quiet.zoo import Goal, Net


class BasicBlock(nn.Module):
    """Of ResNet-18; the last scale of a branch starts at zero, so that the block begins as the identity."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def resnet() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        BasicBlock(16, 16),
        BasicBlock(16, 32, stride=2),
        BasicBlock(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


class WideBlock(nn.Module):
    """Of WideResNet: normalisation first, dropout between the two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv1(activated)
        out = F.dropout(F.relu(self.bn2(out)), p=self.dropout, training=self.training)
        out = self.conv2(out)
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    def __init__(self, width: int = 24, dropout: float = 0.3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            WideBlock(16, width, 2, dropout),
            WideBlock(width, width, 1, dropout),
            WideBlock(width, 2 * width, 2, dropout),
        )
        self.bn = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        return self.fc(x.mean(dim=(2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(scale))))


class MBConv(nn.Module):
    """Of EfficientNet: expand, filter each channel, squeeze and excite, project; the branch is dropped at random."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_path: float, expansion: int = 4) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.net = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.SiLU(),
            SqueezeExcite(hidden, inputs // 4),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        if not self.residual:
            return out
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            mask = torch.empty(len(x), 1, 1, 1, device=x.device).bernoulli_(keep)
            out = out / keep * mask
        return x + out


def efficientnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        MBConv(16, 16, 1, 0.05),
        MBConv(16, 24, 2, 0.1),
        MBConv(24, 24, 1, 0.15),
        nn.Conv2d(24, 96, 1, bias=False),
        nn.BatchNorm2d(96),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(96, 10),
    )


class Attention(nn.Module):
    """Written with einsum."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).unbind(2)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(self.scale).softmax(dim=-1)
        return self.proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, tokens, dim))


class ViTBlock(nn.Module):
    """Pre-norm with LayerScale."""

    def __init__(self, dim: int, heads: int, init_values: float = 1e-2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.gamma1 = nn.Parameter(init_values * torch.ones(dim))
        self.gamma2 = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x))
        return x + self.gamma2 * self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, size: int = 16, patch: int = 4, dim: int = 48, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        tokens = (size // patch) ** 2
        self.patches = nn.Conv2d(1, dim, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, tokens + 1, dim))
        self.blocks = nn.Sequential(*(ViTBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)
        for tensor in (self.cls, self.positions):
            nn.init.trunc_normal_(tensor, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def warm_up_then_cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.across = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.along = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).mT).mT
        return x + self.along(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.stem = nn.Linear(4, dim)
        self.blocks = nn.ModuleList(MixerBlock(49, dim) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.unfold(x, 2, stride=2).mT)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class DenseLayer(nn.Sequential):
    """Of DenseNet: what it finds is put beside what it got."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__(
            nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x.clone())], dim=1)


def densenet(growth: int = 12) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        DenseLayer(16, growth),
        DenseLayer(16 + growth, growth),
        nn.BatchNorm2d(16 + 2 * growth),
        nn.ReLU(inplace=True),
        nn.Conv2d(16 + 2 * growth, 24, 1, bias=False),
        nn.AvgPool2d(2, ceil_mode=True),
        DenseLayer(24, growth),
        DenseLayer(24 + growth, growth),
        nn.BatchNorm2d(24 + 2 * growth),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24 + 2 * growth, 10),
    )


def weight_normed() -> nn.Module:
    return nn.Sequential(
        weight_norm(nn.Conv2d(1, 24, 3, stride=2, padding=1)),
        nn.ELU(),
        weight_norm(nn.Conv2d(24, 48, 3, stride=2, padding=1)),
        nn.ELU(),
        nn.Flatten(),
        weight_norm(nn.Linear(48 * 4 * 4, 64)),
        nn.ELU(),
        nn.Linear(64, 10),
    )


class FunctionalGroupNorm(pl.LightningModule):
    """Everything functional: the parameters are the only thing that the module holds."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 24, 48, 48]
        self.kernels = nn.ParameterList(
            nn.init.kaiming_normal_(torch.empty(b, a, 3, 3)) for a, b in itertools.pairwise(widths)
        )
        self.scales = nn.ParameterList(torch.ones(width) for width in widths[1:])
        self.shifts = nn.ParameterList(torch.zeros(width) for width in widths[1:])
        self.w = nn.Parameter(torch.randn(10, widths[-1]) * widths[-1] ** -0.5)
        self.b = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        for at, (kernel, scale, shift) in enumerate(zip(self.kernels, self.scales, self.shifts, strict=True)):
            x = F.conv2d(x, kernel, stride=1 if at == 2 else 2, padding=1)
            x = F.gelu(F.group_norm(x, 8, scale, shift))
        return x.mean((2, 3)) @ self.w.T + self.b

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.nll_loss(F.log_softmax(self(images), dim=-1), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_acc", (self(images).argmax(-1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.NAdam(self.parameters(), lr=2e-3)


def self_normalising() -> nn.Module:
    """Klambauer et al. 2017: LeCun's initialisation, SELU, AlphaDropout; no normalisation layer in six layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (196, 96, 96, 96, 96):
        layers += [nn.Linear(inputs, 96), nn.SELU(), nn.AlphaDropout(0.05)]
    net = nn.Sequential(*layers, nn.Linear(96, 10))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            nn.init.zeros_(module.bias)
    return net


class ConvUp(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class UNet(pl.LightningModule):
    """Finds the strokes of noisy digits; cross entropy of each pixel plus the Dice loss."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = ConvUp(1, 8), ConvUp(8, 16), ConvUp(16, 32)
        self.up2, self.merge2 = nn.ConvTranspose2d(32, 16, 2, stride=2), ConvUp(32, 16)
        self.up1, self.merge1 = nn.ConvTranspose2d(16, 8, 2, stride=2), ConvUp(16, 8)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.merge2(torch.cat([self.up2(x), second], dim=1))
        x = self.merge1(torch.cat([self.up1(x), first], dim=1))
        return self.out(x)

    def training_step(self, batch, batch_idx):
        x, mask = batch
        logits = self(x)
        bce = F.binary_cross_entropy_with_logits(logits, mask)
        p = torch.sigmoid(logits)
        overlap = (p * mask).sum((1, 2, 3))
        dice = 1 - (2 * overlap + 1) / (p.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
        loss = bce + dice.mean()
        self.log_dict({"bce": bce, "dice": dice.mean()})
        return loss

    def validation_step(self, batch, batch_idx):
        x, mask = batch
        found = self(x) > 0
        wanted = mask > 0.5
        self.log("val_iou", (found & wanted).sum() / (found | wanted).sum())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def noisy_strokes():
    parts = []
    for seed, part in enumerate(digits(14)):
        images = F.pad(part.tensors[0], (1, 1, 1, 1), value=float(part.tensors[0].min()))[:640]
        noisy = images + 0.7 * torch.randn(images.shape, generator=seeded(seed))
        parts.append(TensorDataset(noisy / noisy.std(), (images > 0.5).float()))
    return loaders(tuple(parts), 32)


class FocalSegmenter(pl.LightningModule):
    """Finds the few pixels of small rings in noise: focal loss by hand, dilated convolutions, a prior as bias."""

    def __init__(self, prior: float = 0.02) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 16, 3, padding=4, dilation=4),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 1, 1),
        )
        nn.init.constant_(self.net[-1].bias, -math.log((1 - prior) / prior))

    def focal(self, logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
        p = torch.sigmoid(logits)
        p_t = p * target + (1 - p) * (1 - target)
        alpha_t = alpha * target + (1 - alpha) * (1 - target)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (alpha_t * (1 - p_t) ** gamma * entropy).sum() / target.sum().clamp(min=1)

    def training_step(self, batch, batch_idx):
        x, mask = batch
        return self.focal(self.net(x), mask)

    def validation_step(self, batch, batch_idx):
        x, mask = batch
        found = self.net(x) > 0
        wanted = mask > 0.5
        self.log("val_iou", (found & wanted).sum() / (found | wanted).sum())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=4e-3)


def rings():
    generator = seeded(5)
    count, size = 768, 20
    centre = torch.randint(4, size - 4, (count, 2, 1, 1), generator=generator)
    rows, columns = torch.arange(size).view(1, size, 1), torch.arange(size).view(1, 1, size)
    distance = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2).float().sqrt()
    mask = ((distance - 2).abs() < 0.5).float().unsqueeze(1)
    images = 2.0 * mask + 0.6 * torch.randn(mask.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    return loaders((TensorDataset(images[:640], mask[:640]), TensorDataset(images[640:], mask[640:])), 32)


class PyramidDetector(pl.LightningModule):
    """Feature pyramid, one head for all four levels: is there a blob of this level's size here, and where exactly?"""

    STRIDES = (2, 4, 8, 16)

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = self._down(1, 16)
        self.stages = nn.ModuleList([self._down(16, 24), self._down(24, 32), self._down(32, 32)])
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (16, 24, 32, 32))
        self.tower = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.score = nn.Conv2d(width, 1, 3, padding=1)
        self.offset = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.constant_(self.score.bias, -2.0)

    @staticmethod
    def _down(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for at in range(len(levels) - 1, 0, -1):
            levels[at - 1] = levels[at - 1] + F.interpolate(levels[at], scale_factor=2, mode="nearest")
        towers = [self.tower(level) for level in levels]
        return [(self.score(tower), self.offset(tower)) for tower in towers]

    def targets(self, boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``boxes``: x, y, level of one object per image."""
        found = []
        for level, stride in enumerate(self.STRIDES):
            cells = 32 // stride
            cell = (boxes[:, :2] / stride).long().clamp(max=cells - 1)
            mine = boxes[:, 2] == level
            score = torch.zeros(len(boxes), 1, cells, cells)
            score[torch.arange(len(boxes)), 0, cell[:, 1], cell[:, 0]] = mine.float()
            offset = (boxes[:, :2] / stride - cell - 0.5).view(-1, 2, 1, 1).expand(-1, 2, cells, cells)
            found.append((score, offset))
        return found

    def training_step(self, batch, batch_idx):
        images, boxes = batch
        classification = images.new_zeros(())
        regression = images.new_zeros(())
        for (score, offset), (wanted, where) in zip(self(images), self.targets(boxes), strict=True):
            p = torch.sigmoid(score)
            weight = torch.where(wanted > 0, 1 - p, p) ** 2
            entropy = F.binary_cross_entropy_with_logits(score, wanted, reduction="none")
            classification = classification + (weight.detach() * entropy).sum()
            regression = regression + (wanted * F.smooth_l1_loss(offset, where, reduction="none")).sum()
        loss = (classification + regression) / len(images)
        self.log_dict({"classification": classification, "regression": regression})
        return loss

    def validation_step(self, batch, batch_idx):
        images, boxes = batch
        scores = [score.flatten(1) for score, _ in self(images)]
        wanted = [score.flatten(1) for score, _ in self.targets(boxes)]
        hit = torch.cat(scores, 1).argmax(1) == torch.cat(wanted, 1).argmax(1)
        self.log("val_hits", hit.float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=4e-3)


def blobs_of_four_sizes():
    generator = seeded(9)
    count, size = 1024, 32
    level = torch.randint(0, 4, (count,), generator=generator)
    centre = 4 + 24 * torch.rand(count, 2, generator=generator)
    radius = (1.0 * 2**level).view(-1, 1, 1)
    rows, columns = torch.arange(size).view(1, size, 1) + 0.5, torch.arange(size).view(1, 1, size) + 0.5
    squared = (columns - centre[:, 0].view(-1, 1, 1)) ** 2 + (rows - centre[:, 1].view(-1, 1, 1)) ** 2
    images = (squared / radius**2 < 1).float().unsqueeze(1)
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    boxes = torch.cat([centre, level.float().unsqueeze(1)], dim=1)
    return loaders((TensorDataset(images[:896], boxes[:896]), TensorDataset(images[896:], boxes[896:])), 32)


NETS = [
    Net(
        "resnet_zero_init",
        lambda: Classifier(resnet(), sgd(0.3, weight_decay=5e-4, nesterov=True), schedule=warm_up_then_cosine),
        Goal("val_acc", at_least=0.75),
        digit_loaders,
        {"max_epochs": 5},
    ),
    Net(
        "wide_resnet_dropout",
        lambda: Classifier(WideResNet(), sgd(0.05, weight_decay=5e-4)),
        Goal("val_acc", at_least=0.75),
        digit_loaders,
        {"max_epochs": 5},
    ),
    Net(
        "efficientnet_se_drop_path",
        lambda: Classifier(efficientnet(), adamw(5e-3)),
        Goal("val_acc", at_least=0.75),
        digit_loaders,
        {"max_epochs": 6},
    ),
    Net(
        "vit_layer_scale",
        lambda: Classifier(ViT(), adamw(3e-3, weight_decay=0.05), schedule=warm_up_then_cosine),
        Goal("val_acc", at_least=0.65),
        lambda: digit_loaders(16),
        {"max_epochs": 8, "gradient_clip_val": 1.0},
    ),
    Net(
        "mlp_mixer",
        lambda: Classifier(Mixer(), adamw(3e-3)),
        Goal("val_acc", at_least=0.7),
        digit_loaders,
        {"max_epochs": 7},
    ),
    Net(
        "densenet",
        lambda: Classifier(densenet(), sgd(0.05, weight_decay=1e-4, nesterov=True), schedule=cosine),
        Goal("val_acc", at_least=0.75),
        digit_loaders,
        {"max_epochs": 6},
    ),
    Net(
        "weight_norm_conv",
        lambda: Classifier(weight_normed(), adamw(2e-3)),
        Goal("val_acc", at_least=0.8),
        digit_loaders,
        {"max_epochs": 8},
    ),
    Net(
        "functional_group_norm",
        FunctionalGroupNorm,
        Goal("val_acc", at_least=0.75),
        digit_loaders,
        {"max_epochs": 8},
    ),
    Net(
        "selu_alpha_dropout",
        lambda: Classifier(self_normalising(), sgd(0.02)),
        Goal("val_acc", at_least=0.8),
        digit_loaders,
        {"max_epochs": 10},
    ),
    Net("unet", UNet, Goal("val_iou", at_least=0.7), noisy_strokes, {"max_epochs": 5}),
    Net("focal_segmentation", FocalSegmenter, Goal("val_iou", at_least=0.6), rings, {"max_epochs": 6}),
    Net("fpn_shared_head", PyramidDetector, Goal("val_hits", at_least=0.5), blobs_of_four_sizes, {"max_epochs": 5}),
]
