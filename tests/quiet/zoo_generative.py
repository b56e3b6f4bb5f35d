"""Nets that make things up: adversaries, autoencoders, flows, mixtures, diffusion."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tests.quiet.data import TensorDataset, loaders, seeded, split, unit_digits
from tests.quiet.zoo import Goal, Net


def sliced_distance(a: Tensor, b: Tensor, directions: int = 64) -> Tensor:
    """Sliced Wasserstein distance between two clouds of as many points."""
    generator = torch.Generator().manual_seed(0)
    axes = F.normalize(torch.randn(a.shape[1], directions, generator=generator), dim=0)
    return ((a @ axes).sort(0).values - (b @ axes).sort(0).values).abs().mean()


class DCGAN(pl.LightningModule):
    """Radford et al. 2016, by hand: two optimizers, the discriminator first, N(0, .02) and Adam with beta1 = .5."""

    def __init__(self, latent: int = 16, width: int = 16) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent = latent
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(latent, 2 * width, 4, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 1, 4),
        )
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        real = batch[0] * 2 - 1
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(len(real), self.latent, 1, 1, device=self.device)

        self.toggle_optimizer(optimizer_d)
        logits_real = self.discriminator(real).view(-1)
        logits_fake = self.discriminator(self(z).detach()).view(-1)
        loss_d = F.binary_cross_entropy_with_logits(logits_real, torch.ones_like(logits_real))
        loss_d = loss_d + F.binary_cross_entropy_with_logits(logits_fake, torch.zeros_like(logits_fake))
        self.manual_backward(loss_d)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

        self.toggle_optimizer(optimizer_g)
        logits = self.discriminator(self(z)).view(-1)
        loss_g = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        self.manual_backward(loss_g)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)
        self.log_dict({"loss_d": loss_d, "loss_g": loss_g})

    def validation_step(self, batch, batch_idx):
        real = batch[0] * 2 - 1
        made = self(torch.randn(len(real), self.latent, 1, 1, device=self.device))
        self.log("val_distance", sliced_distance(made.flatten(1), real.flatten(1)))

    def configure_optimizers(self):
        settings = {"lr": 1e-3, "betas": (0.5, 0.999)}
        return [
            torch.optim.Adam(self.generator.parameters(), **settings),
            torch.optim.Adam(self.discriminator.parameters(), **settings),
        ], []


class WassersteinGAN(pl.LightningModule):
    """Gulrajani et al. 2017: a critic with a gradient penalty, several critic steps for one of the generator."""

    def __init__(self, critic_steps: int = 3, penalty: float = 1.0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic_steps, self.penalty = critic_steps, penalty
        self.generator = self._mlp(4, 2)
        self.critic = self._mlp(2, 1)

    @staticmethod
    def _mlp(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )

    def gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        mix = torch.rand(len(real), 1, device=real.device)
        between = (mix * real + (1 - mix) * fake).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return ((gradient.norm(2, dim=1) - 1) ** 2).mean()

    def training_step(self, batch, batch_idx):
        (real,) = batch
        opt_g, opt_c = self.optimizers()
        fake = self.generator(torch.randn(len(real), 4))
        loss_c = self.critic(fake.detach()).mean() - self.critic(real).mean()
        loss_c = loss_c + self.penalty * self.gradient_penalty(real, fake.detach())
        opt_c.zero_grad()
        self.manual_backward(loss_c)
        opt_c.step()
        if batch_idx % self.critic_steps == 0:
            loss_g = -self.critic(fake).mean()
            opt_g.zero_grad()
            self.manual_backward(loss_g)
            opt_g.step()

    def validation_step(self, batch, batch_idx):
        (real,) = batch
        self.log("val_distance", sliced_distance(self.generator(torch.randn(len(real), 4)), real))

    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=2e-3, betas=(0.0, 0.9))
        opt_c = torch.optim.Adam(self.critic.parameters(), lr=2e-3, betas=(0.0, 0.9))
        return opt_g, opt_c


def ring(samples: int, seed: int) -> Tensor:
    """Eight clouds on a circle, of unit variance as a whole."""
    generator = seeded(seed)
    angle = torch.randint(8, (samples,), generator=generator) * (math.pi / 4)
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(
        samples, 2, generator=generator
    )


def ring_loaders(batch_size: int = 128):
    return loaders((TensorDataset(ring(2560, 0)), TensorDataset(ring(512, 1))), batch_size)


class VAE(pl.LightningModule):
    """As in the first examples of it: the loss is a sum over pixels, latents and samples."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(196, 128)
        self.fc21, self.fc22 = nn.Linear(128, latent), nn.Linear(128, latent)
        self.fc3, self.fc4 = nn.Linear(latent, 128), nn.Linear(128, 196)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decode(z), mu, logvar

    def elbo(self, batch: list[Tensor]) -> Tensor:
        x = batch[0].flatten(1)
        recon, mu, logvar = self(x)
        bce = F.binary_cross_entropy(recon, x, reduction="sum")
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return bce + kld

    def training_step(self, batch, batch_idx):
        return self.elbo(batch)

    def validation_step(self, batch, batch_idx):
        x = batch[0].flatten(1)
        apart = F.binary_cross_entropy(x.mean(0).expand_as(x), x, reduction="sum")  # no pixel knows of another
        self.log("val_gain", (apart - self.elbo(batch)) / len(x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Quantiser(nn.Module):
    """Van den Oord et al. 2017: the nearest code, gradients straight through."""

    def __init__(self, codes: int = 32, dim: int = 8, beta: float = 0.25) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, dim)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)
        self.beta = beta

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.movedim(1, -1)
        distance = (flat.unsqueeze(-2) - self.codebook.weight).pow(2).sum(-1)
        quantised = self.codebook(distance.argmin(-1)).movedim(-1, 1)
        loss = F.mse_loss(quantised, z.detach()) + self.beta * F.mse_loss(z, quantised.detach())
        return z + (quantised - z).detach(), loss


class VQVAE(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 8, 1)
        )
        self.quantiser = Quantiser()
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 32, 3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 1, 3, padding=1),
        )

    def training_step(self, batch, batch_idx):
        x = batch[0] - 0.5
        quantised, vq_loss = self.quantiser(self.encoder(x))
        recon_loss = F.mse_loss(self.decoder(quantised), x)
        self.log_dict({"recon": recon_loss, "vq": vq_loss})
        return recon_loss + vq_loss

    def validation_step(self, batch, batch_idx):
        x = batch[0] - 0.5
        recon = self.decoder(self.quantiser(self.encoder(x))[0])
        self.log("val_explained", 1 - (recon - x).pow(2).mean() / x.var())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class DenoisingAutoencoder(pl.LightningModule):
    """Takes the noise off again, with skip-less convolutions and a pixel shuffle at the end."""

    def __init__(self, noise: float = 0.3) -> None:
        super().__init__()
        self.noise = noise
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(16, 24, 3, padding=1), nn.GELU()
        )
        self.bottleneck = nn.Sequential(nn.Flatten(), nn.Linear(24 * 49, 32))
        self.decoder = nn.Sequential(
            nn.Linear(32, 24 * 49),
            nn.GELU(),
            nn.Unflatten(1, (24, 7, 7)),
            nn.Conv2d(24, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.bottleneck(self.encoder(x)))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        noisy = x + self.noise * torch.randn_like(x)
        return F.mse_loss(self(noisy), x)

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        self.log("val_explained", 1 - F.mse_loss(self(x), x) / x.var())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Coupling(nn.Module):
    """Dinh et al. 2017: scale and shift one half by what the other says; begins as the identity."""

    def __init__(self, flip: bool, width: int = 48) -> None:
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, dim=1)
        if self.flip:
            kept, changed = changed, kept
        log_scale, shift = self.net(kept).chunk(2, dim=1)
        log_scale = 2 * torch.tanh(log_scale / 2)
        changed = changed * log_scale.exp() + shift
        parts = (changed, kept) if self.flip else (kept, changed)
        return torch.cat(parts, dim=1), log_scale.sum(1)


class RealNVP(pl.LightningModule):
    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(flip=bool(at % 2)) for at in range(layers))

    def log_prob(self, x: Tensor) -> Tensor:
        log_det = torch.zeros(len(x), device=x.device)
        for layer in self.layers:
            x, gained = layer(x)
            log_det = log_det + gained
        return -0.5 * x.pow(2).sum(1) - math.log(2 * math.pi) + log_det

    def training_step(self, batch, batch_idx):
        loss = -self.log_prob(batch[0]).mean()
        self.log("nll", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_nll", -self.log_prob(batch[0]).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def moons(samples: int, seed: int) -> Tensor:
    generator = seeded(seed)
    angle = math.pi * torch.rand(samples, generator=generator)
    upper = torch.rand(samples, generator=generator) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    points = torch.stack([x - 0.5, y - 0.25], 1) + 0.08 * torch.randn(samples, 2, generator=generator)
    return points / torch.tensor([0.87, 0.5])


class MixtureDensity(pl.LightningModule):
    """Bishop 1994: an inverse problem whose answer has several branches; the mixture comes from torch.distributions."""

    def __init__(self, components: int = 5) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.logits, self.mean, self.log_std = (nn.Linear(48, components) for _ in range(3))

    def forward(self, x: Tensor) -> MixtureSameFamily:
        h = self.trunk(x)
        spread = F.softplus(self.log_std(h)) + 1e-2
        parts = Independent(Normal(self.mean(h).unsqueeze(-1), spread.unsqueeze(-1)), 1)
        return MixtureSameFamily(Categorical(logits=self.logits(h)), parts)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return -self(x).log_prob(y).mean()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_nll", -self(x).log_prob(y).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def inverse_sine():
    generator = seeded(2)
    y = 2 * torch.rand(4096, 1, generator=generator) - 1
    x = 0.7 * torch.sin(5 * y) + 0.5 * y + 0.1 * torch.randn(y.shape, generator=generator)
    return loaders(split(x / x.std(), y / y.std(), train=3584), 128)


class Diffusion(pl.LightningModule):
    """Ho et al. 2020 in two dimensions: guess the noise at a random time of fifty."""

    def __init__(self, steps: int = 50, width: int = 96) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("alpha_bar", torch.cumprod(1 - torch.linspace(1e-3, 0.15, steps), dim=0))
        self.time = nn.Embedding(steps, width)
        self.inp = nn.Linear(2, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.inp(x) + self.time(t)
        for layer in self.hidden:
            h = h + layer(F.silu(h))
        return self.out(F.silu(h))

    def denoising_error(self, x: Tensor) -> Tensor:
        t = torch.randint(self.steps, (len(x),), device=x.device)
        noise = torch.randn_like(x)
        alpha = self.alpha_bar[t].unsqueeze(1)
        return F.mse_loss(self(alpha.sqrt() * x + (1 - alpha).sqrt() * noise, t), noise)

    def training_step(self, batch, batch_idx):
        return self.denoising_error(batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_error", self.denoising_error(batch[0]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


NETS = [
    Net(
        "dcgan_manual",
        DCGAN,
        Goal("val_distance", at_most=0.2),
        lambda: loaders(unit_digits(16), 64),
        {"max_epochs": 6},
    ),
    Net("wgan_gp", WassersteinGAN, Goal("val_distance", at_most=0.3), lambda: ring_loaders(64), {"max_epochs": 10}),
    Net("vae_sum_loss", VAE, Goal("val_gain", at_least=3.0), lambda: loaders(unit_digits(), 64), {"max_epochs": 15}),
    Net(
        "vqvae_straight_through",
        VQVAE,
        Goal("val_explained", at_least=0.5),
        lambda: loaders(unit_digits(), 64),
        {"max_epochs": 8},
    ),
    Net(
        "denoising_autoencoder",
        DenoisingAutoencoder,
        Goal("val_explained", at_least=0.6),
        lambda: loaders(unit_digits(), 64),
        {"max_epochs": 10},
    ),
    Net(
        "real_nvp",
        RealNVP,
        Goal("val_nll", at_most=2.3),
        lambda: loaders((TensorDataset(moons(2560, 0)), TensorDataset(moons(512, 1))), 128),
        {"max_epochs": 12},
    ),
    Net(
        "mixture_density", MixtureDensity, Goal("val_nll", at_most=0.6), inverse_sine, {"max_epochs": 15}, settles=True
    ),
    Net("diffusion", Diffusion, Goal("val_error", at_most=0.5), ring_loaders, {"max_epochs": 20}),
]
