"""Small healthy runs for every test: ``from tests.helpers import Mlp, quiet_trainer``.

(The root of the repository is on pytest's ``pythonpath``; the import is the same in spawned processes.)

``quiet_trainer(max_epochs=2).fit(Mlp())`` trains without a warning, a file or a line of output: the models bring their
data with them, initial weights and data depend on ``seed`` alone, and nothing draws from the global RNG except where
training itself does (dropout, the GAN's noise). They all learn: a finding in such a run is a false alarm.

==================  ================================================================
``Mlp``             three linear layers with ReLU; the plainest thing that learns
``BNConvNet``       two blocks of convolution, batch norm and ReLU, one ReLU in place
``DropoutNet``      an MLP with dropout, so that a step consumes the RNG
``LSTMNet``         one LSTM over sequences, read at the last step
``TransformerNet``  one ``nn.TransformerEncoderLayer`` (attention, layer norm, dropout, residuals)
``ManualGAN``       manual optimization, two optimizers, fresh noise in every step
==================  ================================================================
"""

from __future__ import annotations

from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 3
CENTRES_SEED = 1729  # the classes stay where they are: another seed draws other samples of the same problem


def quiet_trainer(**overrides: Any) -> pl.Trainer:
    """A ``Trainer`` on one CPU device for one epoch, that writes nothing and says nothing.

    ``overrides`` are arguments of ``Trainer``. A test that passes ``logger`` or ``enable_checkpointing`` works in an
    empty folder (see ``conftest.py``). With ``barebones=True`` Lightning itself warns at every ``self.log``.
    """
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    if not overrides.get("barebones"):  # which refuses to be told how often to log
        settings["log_every_n_steps"] = 1
    return pl.Trainer(**{**settings, **overrides})


def blobs(samples: int, shape: tuple[int, ...] = (8,), *, seed: int = 0) -> TensorDataset:
    """Gaussian blobs of unit scale: inputs ``[samples, *shape]`` and class indices ``[samples]``, easily told apart."""
    centres = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(CENTRES_SEED))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    return TensorDataset(centres[labels] + 0.5 * torch.randn(samples, *shape, generator=generator), labels)


class TinyModule(pl.LightningModule):
    """A classifier of :func:`blobs` with its data; subclasses give ``shape`` and ``build``.

    Args:
        lr: of the optimizer (SGD with momentum unless a subclass says otherwise).
        seed: of initial weights and data.
        batches: training batches in an epoch; half as many for validation.
        batch_size: samples in each.
    """

    shape: ClassVar[tuple[int, ...]] = (8,)

    def __init__(self, lr: float = 0.1, *, seed: int = 0, batches: int = 8, batch_size: int = 16) -> None:
        super().__init__()
        self.lr, self.seed, self.batches, self.batch_size = lr, seed, batches, batch_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self.build()

    def build(self) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(-1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(blobs(self.batches * self.batch_size, self.shape, seed=self.seed), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        samples = max(1, self.batches // 2) * self.batch_size
        return DataLoader(blobs(samples, self.shape, seed=self.seed + 1), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("test_acc", (self(x).argmax(-1) == y).float().mean())

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(-1)


class Mlp(TinyModule):
    """Linear, ReLU, linear, ReLU, linear: ``net.0``, ``net.2`` and ``net.4`` hold the weights."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class BNConvNet(TinyModule):
    """Two blocks of convolution, batch norm and ReLU (the second in place) over images ``[1, 8, 8]``."""

    shape = (1, 8, 8)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )


class DropoutNet(TinyModule):
    """An MLP whose training step draws from the global RNG."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, CLASSES))


class LSTMNet(TinyModule):
    """An LSTM over six steps of four features; the last hidden state is classified."""

    shape = (6, 4)

    def __init__(self, lr: float = 0.2, **kwargs: Any) -> None:
        super().__init__(lr, **kwargs)

    def build(self) -> nn.Module:
        return nn.ModuleDict({"lstm": nn.LSTM(4, 12, batch_first=True), "head": nn.Linear(12, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["lstm"](x)[0][:, -1])


class TransformerNet(TinyModule):
    """One pre-norm encoder layer over six tokens of eight features, averaged and classified, trained with AdamW."""

    shape = (6, 8)

    def __init__(self, lr: float = 1e-2, **kwargs: Any) -> None:
        super().__init__(lr, **kwargs)

    def build(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            8, nhead=2, dim_feedforward=16, dropout=0.1, batch_first=True, norm_first=True
        )
        return nn.ModuleDict({"encoder": layer, "head": nn.Linear(8, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["encoder"](x).mean(dim=1))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class ManualGAN(TinyModule):
    """A generator and a discriminator of :func:`blobs`, optimized by hand, the discriminator first."""

    latent = 4

    def __init__(self, lr: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(lr, **kwargs)
        self.automatic_optimization = False

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "generator": nn.Sequential(nn.Linear(self.latent, 16), nn.ReLU(), nn.Linear(16, 8)),
                "discriminator": nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net["discriminator"](x).squeeze(-1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        optimizer_d, optimizer_g = self.optimizers()
        fake = self.net["generator"](torch.randn(len(x), self.latent, device=x.device))
        loss_d = F.softplus(-self(x)).mean() + F.softplus(self(fake.detach())).mean()
        optimizer_d.zero_grad()
        self.manual_backward(loss_d)
        optimizer_d.step()
        loss_g = F.softplus(-self(fake)).mean()
        optimizer_g.zero_grad()
        self.manual_backward(loss_g)
        optimizer_g.step()
        self.log_dict({"loss_d": loss_d, "loss_g": loss_g})

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.softplus(-self(batch[0])).mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", F.softplus(-self(batch[0])).mean())

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.net["discriminator"].parameters(), lr=self.lr, betas=(0.5, 0.999)),
            torch.optim.Adam(self.net["generator"].parameters(), lr=self.lr, betas=(0.5, 0.999)),
        ]


CLASSIFIERS: tuple[type[TinyModule], ...] = (Mlp, BNConvNet, DropoutNet, LSTMNet, TransformerNet)
MODEL_KINDS: tuple[type[TinyModule], ...] = (*CLASSIFIERS, ManualGAN)
