"""Small nets on tables, sets, graphs, equations."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.quiet.classifier import Classifier
from tests.quiet.data import TensorDataset, digits, loaders, seeded, split
from tests.quiet.zoo import Goal, Net


class Regression(pl.LightningModule):
    """A multilayer perceptron on eight noisy features; weights initialized for ReLU."""

    def __init__(self, hidden: int = 64, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("train_mse", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_r2", 1 - F.mse_loss(self(x), y) / y.var())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def noisy_function(samples: int = 6400):
    generator = seeded(1)
    x = torch.randn(samples, 8, generator=generator)
    y = torch.sin(x[:, 0]) + x[:, 1] * x[:, 2] / 2 + x[:, 3].abs() - x[:, 4]
    y = y + 0.7 * torch.randn(samples, generator=generator)
    return loaders(split(x, (y - y.mean()) / y.std(), train=samples - 640), 64)


class PoissonRegression(pl.LightningModule):
    """Counts; the negative log-likelihood written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias

    def training_step(self, batch, batch_idx):
        x, counts = batch
        log_rate = self(x)
        return (log_rate.exp() - counts * log_rate).mean()

    def validation_step(self, batch, batch_idx):
        x, counts = batch
        log_rate = self(x)
        trivial = counts.mean() - counts.mean() * counts.mean().log()
        self.log("val_gain", trivial - (log_rate.exp() - counts * log_rate).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def counts():
    generator = seeded(8)
    x = torch.randn(5120, 6, generator=generator)
    rate = torch.exp(x @ torch.tensor([0.5, -0.4, 0.3, 0.0, 0.2, -0.1]) + 0.3)
    return loaders(split(x, torch.poisson(rate, generator=generator), train=4480), 64)


class MultiTask(pl.LightningModule):
    """Kendall et al. 2018: one trunk, three tasks of three kinds, weights that are learnt as uncertainties."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(196, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU())
        self.heads = nn.ModuleDict({"digit": nn.Linear(64, 10), "odd": nn.Linear(64, 1), "ink": nn.Linear(64, 1)})
        self.log_var = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in self.heads})

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        shared = self.trunk(x)
        ink = (x.mean((1, 2, 3)) - 0.0) / 0.35
        return {
            "digit": F.cross_entropy(self.heads["digit"](shared), y),
            "odd": F.binary_cross_entropy_with_logits(self.heads["odd"](shared)[:, 0], (y % 2).float()),
            "ink": F.l1_loss(self.heads["ink"](shared)[:, 0], ink),
        }

    def training_step(self, batch, batch_idx):
        losses = self.losses(*batch)
        self.log_dict({f"train_{name}": loss for name, loss in losses.items()})
        return sum(torch.exp(-self.log_var[name]) * loss + self.log_var[name] / 2 for name, loss in losses.items())

    def validation_step(self, batch, batch_idx):
        x, y = batch
        digit = self.heads["digit"](self.trunk(x)).argmax(1) == y
        odd = (self.heads["odd"](self.trunk(x))[:, 0] > 0) == (y % 2 == 1)
        self.log("val_both", (digit & odd).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Imbalanced(pl.LightningModule):
    """One class is twenty times as frequent as another; class weights make up for it."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(196, 64), nn.LeakyReLU(0.1), nn.Linear(64, len(counts)))
        self.register_buffer("class_weights", counts.sum() / (len(counts) * counts))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y, weight=self.class_weights)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        right = self.net(x).argmax(1) == y
        recall = torch.stack([right[y == label].float().mean() for label in y.unique()])
        self.log("val_balanced_acc", recall.mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def unequal_digits():
    train, val = digits()
    keep = torch.cat(
        [torch.nonzero(train.tensors[1] == label)[:limit, 0] for label, limit in enumerate((110, 110, 110, 20, 6))]
    )
    wanted = val.tensors[1] < 5
    return (
        TensorDataset(train.tensors[0][keep], train.tensors[1][keep]),
        TensorDataset(val.tensors[0][wanted], val.tensors[1][wanted]),
    )


def class_counts() -> Tensor:
    return torch.bincount(unequal_digits()[0].tensors[1]).float()


class Batched(nn.Module):
    """Softmax regression, small enough for LBFGS on all samples at once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(196, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class LBFGS(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        decay = 0.5 * self.net.linear.weight.pow(2).sum()
        return F.cross_entropy(self(x), y) + 0.02 * decay


class DeepSets(pl.LightningModule):
    """Zaheer et al. 2017: the variance of a set of numbers, from their embeddings' mean."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU())
        self.rho = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def forward(self, sets: Tensor, mask: Tensor) -> Tensor:
        embedded = self.phi(sets.unsqueeze(-1)) * mask.unsqueeze(-1)
        return self.rho(embedded.sum(1) / mask.sum(1, keepdim=True)).squeeze(-1)

    def training_step(self, batch, batch_idx):
        sets, mask, target = batch
        return F.smooth_l1_loss(self(sets, mask), target)

    def validation_step(self, batch, batch_idx):
        sets, mask, target = batch
        self.log("val_r2", 1 - F.mse_loss(self(sets, mask), target) / target.var())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def sets_of_numbers():
    generator = seeded(12)
    count, most = 4480, 12
    size = torch.randint(6, most + 1, (count, 1), generator=generator)
    mask = (torch.arange(most) < size).float()
    spread = 0.3 + 1.2 * torch.rand(count, 1, generator=generator)
    sets = spread * torch.randn(count, most, generator=generator) * mask
    spread = spread[:, 0].log()
    return loaders(split(sets, mask, (spread - spread.mean()) / spread.std(), train=3840), 64)


class GraphConvolution(nn.Module):
    """Messages along the edges, put together by ``index_add``; no library of graphs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs)
        self.neighbour = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        messages = self.neighbour(x)[source]
        total = torch.zeros(len(x), messages.shape[1], dtype=x.dtype, device=x.device).index_add(0, target, messages)
        degree = torch.zeros(len(x), 1, device=x.device).index_add(0, target, torch.ones(len(source), 1))
        return self.own(x) + total / degree.clamp(min=1)


class GraphNet(pl.LightningModule):
    """Kipf and Welling's setting: one graph, few labels, Adam with some weight decay; every step sees all nodes."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.conv1, self.conv2 = GraphConvolution(16, dim), GraphConvolution(dim, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = F.relu(self.conv1(x, edges))
        h = F.dropout(h, p=0.5, training=self.training)
        return F.log_softmax(self.conv2(h, edges), dim=1)

    def training_step(self, graph, batch_idx):
        out = self(graph["x"], graph["edges"])
        known = graph["known"]
        return F.nll_loss(out[known], graph["y"][known])

    def validation_step(self, graph, batch_idx):
        unknown = ~graph["known"]
        right = self(graph["x"], graph["edges"]).argmax(1) == graph["y"]
        self.log("val_acc", right[unknown].float().mean(), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2, weight_decay=5e-4)


def communities():
    """Four groups of people who mostly know their own; what is known of each says little."""
    generator = seeded(13)
    count = 400
    y = torch.arange(count) % 4
    same = (y.unsqueeze(0) == y.unsqueeze(1)).float()
    linked = torch.rand(count, count, generator=generator) < 0.05 * same + 0.004
    edges = (linked | linked.T).nonzero().T
    centre = torch.randn(4, 16, generator=generator)
    x = 0.5 * centre[y] + torch.randn(count, 16, generator=generator)
    known = torch.rand(count, generator=generator) < 0.2
    graph = {"x": x / x.std(), "edges": edges, "y": y, "known": known}
    return DataLoader([graph], batch_size=None), DataLoader([graph], batch_size=None)


class HeatEquation(pl.LightningModule):
    """Raissi et al. 2019: a tanh net that satisfies u_t = u_xx / 10 with what is known at the border."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, 1),
        )
        for module in self.net:
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([2 * x - 1, 2 * t - 1], dim=1))

    def training_step(self, batch, batch_idx):
        (points,) = batch
        x, t = points[:, :1].requires_grad_(True), points[:, 1:].requires_grad_(True)
        u = self(x, t)
        u_t, u_x = torch.autograd.grad(u.sum(), (t, x), create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        residual = (u_t - 0.1 * u_xx).pow(2).mean()
        start = (self(x, torch.zeros_like(t)) - torch.sin(math.pi * x)).pow(2).mean()
        left, right = self(torch.zeros_like(x), t), self(torch.ones_like(x), t)
        loss = residual + 5 * (start + left.pow(2).mean() + right.pow(2).mean())
        self.log_dict({"residual": residual, "start": start})
        return loss

    def validation_step(self, batch, batch_idx):
        (points,) = batch
        x, t = points[:, :1], points[:, 1:]
        truth = torch.sin(math.pi * x) * torch.exp(-0.1 * math.pi**2 * t)
        self.log("val_r2", 1 - F.mse_loss(self(x, t), truth) / truth.var())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Factorisation(pl.LightningModule):
    """Koren et al. 2009: people and films as vectors, each with a bias; half of the ratings are hidden."""

    def __init__(self, people: int = 120, films: int = 80, rank: int = 8) -> None:
        super().__init__()
        self.people, self.films = nn.Embedding(people, rank), nn.Embedding(films, rank)
        self.person_bias, self.film_bias = nn.Embedding(people, 1), nn.Embedding(films, 1)
        self.mean = nn.Parameter(torch.zeros(()))
        for table in (self.people, self.films):
            nn.init.normal_(table.weight, std=0.3)
        for table in (self.person_bias, self.film_bias):
            nn.init.zeros_(table.weight)

    def forward(self, person: Tensor, film: Tensor) -> Tensor:
        match = torch.einsum("br,br->b", self.people(person), self.films(film))
        return self.mean + match + (self.person_bias(person) + self.film_bias(film)).squeeze(-1)

    def training_step(self, batch, batch_idx):
        person, film, rating = batch
        return (self(person, film) - rating).square().mean()

    def validation_step(self, batch, batch_idx):
        person, film, rating = batch
        self.log("val_r2", 1 - (self(person, film) - rating).square().mean() / rating.var())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


def ratings():
    generator = seeded(14)
    people, films = torch.randn(120, 3, generator=generator), torch.randn(80, 3, generator=generator)
    score = people @ films.T / math.sqrt(3) + 0.5 * torch.randn(80, generator=generator)
    score = score + 0.2 * torch.randn(score.shape, generator=generator)
    order = torch.randperm(120 * 80, generator=generator)
    person, film = order // 80, order % 80
    return loaders(split(person, film, (score / score.std()).flatten()[order], train=7680), 128)


NETS = [
    Net("mlp_regression", Regression, Goal("val_r2", at_least=0.6), noisy_function, {"max_epochs": 9}, settles=True),
    Net("poisson_by_hand", PoissonRegression, Goal("val_gain", at_least=0.2), counts, {"max_epochs": 9}, settles=True),
    Net(
        "multi_task_uncertainty",
        MultiTask,
        Goal("val_both", at_least=0.7),
        lambda: loaders(digits(), 64),
        {"max_epochs": 8},
    ),
    Net(
        "imbalanced_class_weights",
        lambda: Imbalanced(class_counts()),
        Goal("val_balanced_acc", at_least=0.7),
        lambda: loaders(unequal_digits(), 32),
        {"max_epochs": 20},
    ),
    Net(
        "lbfgs",
        lambda: LBFGS(Batched(), lambda parameters: torch.optim.LBFGS(parameters, lr=1.0, max_iter=5)),
        Goal("val_acc", at_least=0.8),
        lambda: loaders(digits(), 1280),
        {"max_epochs": 60},
        settles=True,
    ),
    Net("deep_sets", DeepSets, Goal("val_r2", at_least=0.6), sets_of_numbers, {"max_epochs": 12}, settles=True),
    Net("graph_by_scatter", GraphNet, Goal("val_acc", at_least=0.8), communities, {"max_epochs": 150}, settles=True),
    Net(
        "heat_equation",
        HeatEquation,
        Goal("val_r2", at_least=0.9),
        lambda: loaders(split(torch.rand(2304, 2, generator=seeded(15)), train=2048), 128),
        {"max_epochs": 18},
    ),
    Net("matrix_factorisation", Factorisation, Goal("val_r2", at_least=0.6), ratings, {"max_epochs": 9}, settles=True),
]
