"""Divisions by 0, in the open and within other functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.nan.case import Sick, sick
from tests.helpers import CLASSES


@sick("division-by-zero", op="div", detail=" / 0.0")
class Division(Sick):
    def loss(self, x, y):
        z = self(x)
        return (z / (z - z)).mean()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class MeanOverAnEmptyMask(Sick):
    def loss(self, x, y):
        kept = (y > 99).float()
        return (self(x).sum(-1) * kept).sum().mul(0) / kept.sum()  # <- here


@sick("division-by-zero", op="div")
class DivisionByANumber(Sick):
    def loss(self, x, y):
        return (self(x).mean() + 1) / 0.0  # <- here


@sick("division-by-zero", op="reciprocal", detail="1 / 0.0")
class Reciprocal(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        return z.reciprocal().mean()  # <- here


@sick("division-by-zero", op="rsqrt", detail="rsqrt of 0.0")
class InverseDeviation(Sick):
    def loss(self, x, y):
        z = self(x) * 0 + 1
        return ((z - z.mean(-1, keepdim=True)) * z.var(-1, keepdim=True).rsqrt()).mean()  # <- here


@sick("division-by-zero", op="layer_norm", detail="eps=0.0")
class LayerNormWithoutEps(Sick):
    def loss(self, x, y):
        z = self(x) * 0 + 1
        return F.layer_norm(z, (CLASSES,), eps=0.0).mean()  # <- here


@sick("division-by-zero", op="div", bf16=False, trainer={"accumulate_grad_batches": 2})
class AccumulatedDivision(Sick):
    def loss(self, x, y):
        z = self(x)
        return (z / (z * 0)).mean()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class MeanOverCounts(Sick):
    def loss(self, x, y):
        counts = torch.bincount(y, minlength=CLASSES + 1).float()  # of the last class there is none
        sums = torch.zeros(CLASSES + 1).index_add(0, y, self(x).float().mean(-1))
        return (sums / counts).mean()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class WeightedMean(Sick):
    def loss(self, x, y):
        losses = F.cross_entropy(self(x), y, reduction="none")
        weights = (y > 99).float()
        return (losses * weights).sum() / weights.sum()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class NormalizeByHand(Sick):
    def loss(self, x, y):
        z = self(x).relu() * 0
        length = z.square().sum(-1, keepdim=True)
        return (z / length).mean()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class CosineSimilarityByHand(Sick):
    def loss(self, x, y):
        a, b = self(x), self(x) * 0
        lengths = a.norm(dim=-1) * b.norm(dim=-1)
        return 1 - ((a * b).sum(-1) / lengths).mean()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class StandardizedBatch(Sick):
    def loss(self, x, y):
        z = self(x) * 0 + 1
        return ((z - z.mean(0)) / z.std(0)).sum()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class MinMaxScaling(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        low, high = z.amin(), z.amax()
        return ((z - low) / (high - low)).mean()  # <- here


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
class RelativeError(Sick):
    def loss(self, x, y):
        target = F.one_hot(y, CLASSES) * self.scale  # a scale of 0
        return ((target * self(x)) / target).mean()  # <- here


@sick("division-by-zero", op="remainder", detail=" / 0.0")
class Phase(Sick):
    def loss(self, x, y):
        return torch.remainder(self(x), self.scale).mean()  # <- here


@sick("division-by-zero", op="weight_norm_interface", detail="a weight whose norm is 0")
class WeightNormOfNothing(Sick):
    def build(self):
        net = super().build()
        nn.init.zeros_(net[2].weight)
        nn.utils.parametrizations.weight_norm(net[2])
        return net

    def forward(self, x):
        return self.net(x)  # <- here

    def loss(self, x, y):
        return F.cross_entropy(self(x), y)


@sick("division-by-zero", op="reciprocal", detail="1 / 0.0")
class InverseFrequency(Sick):
    def loss(self, x, y):
        frequency = torch.bincount(y, minlength=CLASSES + 1).float()
        weights = 1.0 / frequency  # <- here
        return (F.cross_entropy(self(x), y, reduction="none") * weights.sum()).mean()
