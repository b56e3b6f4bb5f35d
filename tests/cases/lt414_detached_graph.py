"""LT414: an encoder whose output reaches the loss without its gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class TwoParts(TinyModule):
    """An encoder and a head; subclasses cut what goes between."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(lr=0.05)
        self.sick = sick

    def build(self) -> nn.Module:
        encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(16, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        features = self.net["encoder"](x)
        return self.net["head"](self.cut(features) if self.sick else features)

    def cut(self, features: Tensor) -> Tensor:
        return features.detach()


class OldStyle(TwoParts):
    def cut(self, features):
        return features.data


class ByNumpy(TwoParts):
    def cut(self, features):
        values = features.detach().numpy()
        return torch.from_numpy(values)


class NoGradients(TwoParts):
    """A feature extractor that runs without gradients, and whose weights the optimizer holds nevertheless."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.sick):
            features = self.net["encoder"](x)
        return self.net["head"](features)


class NumberInLoss(TwoParts):
    """The loss of a second head is added as a number."""

    def build(self) -> nn.Module:
        parts = super().build()
        parts["other"] = nn.Linear(16, 8)
        return parts

    def training_step(self, batch, batch_idx):
        x, y = batch
        features = self.net["encoder"](x)
        again = F.mse_loss(self.net["other"](features), x)
        loss = F.cross_entropy(self.net["head"](features), y)
        if self.sick:
            return loss + again.item()
        return loss + again


class NewLoss(TwoParts):
    """The loss is made a tensor once more, so that ``backward`` does not complain."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net["head"](self.net["encoder"](x)), y)
        if self.sick:
            loss = torch.tensor(loss.item(), requires_grad=True)
        return loss


def case(kind: type[TwoParts], name: str, line: str, *, where: str = "net.encoder", severity: str = "error") -> Case:
    return Case(
        "LT414",
        Run(lambda: kind(sick=True)),
        Run(lambda: kind(sick=False)),
        where=where,
        severity=severity,
        line=line,
        name=name,
    )


CASES = [
    case(TwoParts, "detach", "features.detach()"),
    case(OldStyle, "data", "features.data"),
    case(ByNumpy, "numpy", "features.detach().numpy()"),
    case(NoGradients, "no_grad", 'self.net["encoder"](x)', severity="info"),
    case(NumberInLoss, "item", "again.item()", where="net.other"),
    case(NewLoss, "new loss", "loss.item()", where="net"),
]
