"""Functions outside of where they are defined: logarithms, powers, inverse functions, poles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tests.cases.nan.case import INF, Sick, sick
from tests.helpers import CLASSES


@sick("log-of-zero", op="log", detail="log of 0.0")
class LogOfSoftmaxThatUnderflows(Sick):
    def loss(self, x, y):
        probabilities = (200 * self(x)).softmax(-1)
        return -probabilities.log().gather(1, y[:, None]).mean()  # <- here


@sick("log-of-zero", op="log", detail="log of 0.0")
class Entropy(Sick):
    def loss(self, x, y):
        p = F.one_hot(y, CLASSES) * self(x).softmax(-1)
        logs = p.log()  # <- here
        return -(p * logs).sum()


@sick("log-of-negative", op="log", detail="log of -")
class LogOfNegative(Sick):
    def loss(self, x, y):
        z = self(x) - 5
        return torch.log(z).mean()  # <- here


@sick("log-of-zero", op="log", detail="log of 0.0")
class LogInPlace(Sick):
    def loss(self, x, y):
        z = self(x).relu() * 0
        z = z + 0 * self.scale
        z.log_()  # <- here
        return z.mean()


@sick("log-of-zero", op="log1p", detail="log1p of -1.0")
class Log1p(Sick):
    def loss(self, x, y):
        z = self(x) * 0 - 1
        return z.log1p().sum()  # <- here


@sick("log-of-zero", op="logit", detail="logit of ")
class Logit(Sick):
    def loss(self, x, y):
        z = torch.sigmoid(100 * self(x) - 1000)
        return torch.logit(z).sum()  # <- here


@sick("pow-domain", op="sqrt", detail="sqrt of -")
class RootOfNegative(Sick):
    def loss(self, x, y):
        z = self(x) - 5
        return z.sqrt().mean()  # <- here


@sick("pow-domain", op="pow", detail="** 0.3")
class PowerOfNegative(Sick):
    def loss(self, x, y):
        z = self(x) - 5
        return (z**0.3).mean()  # <- here


@sick("pow-domain", op="pow", detail="(0.0) ** -1.5")
class NegativePowerOfZero(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        return torch.pow(z, -1.5).mean()  # <- here


@sick("trig-domain", op="acos", detail="acos of 1.0000001", bf16=False)
class AngleBetween(Sick):
    def loss(self, x, y):
        cosine = torch.cos(self(x)) * 0 + 1.0000001
        return torch.acos(cosine).mean()  # <- here


@sick("trig-domain", op="atanh", detail="atanh of 1.0")
class InverseTanh(Sick):
    def loss(self, x, y):
        z = torch.tanh(self(x) + 100)
        return torch.atanh(z).mean()  # <- here


@sick("log-of-zero", op="log")
class InsideACheckpoint(Sick):
    def loss(self, x, y):
        def inner(z):
            return z.relu().mul(0).log()  # <- here

        return checkpoint(inner, self(x), use_reentrant=False).mean()


@sick("log-of-zero", op="log")
class HealthyMasksBeforeTheFault(Sick):
    def loss(self, x, y):
        z = self(x) + self.mask  # a buffer of 0 and -inf
        z = z.masked_fill(y[:, None] > 99, -INF)
        causal = torch.full((16, 16), -INF).triu(1)
        z = (z.softmax(-1) @ z.softmax(-1).T + causal).softmax(-1) @ self(x)
        return (z * 0).log().mean()  # <- here


@sick("log-of-zero", op="xlogy", detail="xlogy with a logarithm of 0.0")
class CrossEntropyByHand(Sick):
    def loss(self, x, y):
        q = self(x).relu() * 0
        return -torch.xlogy(F.one_hot(y, CLASSES), q).sum(-1).mean()  # <- here


@sick("log-of-zero", op="log", detail="log of 0.0")
class BinaryCrossEntropyByHand(Sick):
    def loss(self, x, y):
        p = torch.sigmoid(self(x) + 200)
        target = F.one_hot(y, CLASSES)
        negative = (1 - p).log()  # <- here
        return -(target * p.log() + (1 - target) * negative).mean()


@sick("log-of-zero", op="log", detail="log of 0.0")
class LogSoftmaxByHand(Sick):
    def loss(self, x, y):
        e = (self(x) - 200).exp()
        total = e.sum(-1, keepdim=True).log()  # <- here
        return F.nll_loss(self(x) - 200 - total, y)


@sick("log-of-zero", op="log", detail="log of 0.0")
class DivergenceFromNothing(Sick):
    def loss(self, x, y):
        p, q = self(x).softmax(-1), F.one_hot(y, CLASSES).float()
        return (p * (p.log() - q.log())).sum(-1).mean()  # <- here


@sick("log-of-zero", op="log2", detail="log2 of 0.0")
class Bits(Sick):
    def loss(self, x, y):
        used = self(x).relu() * 0
        return used.log2().mean()  # <- here


@sick("log-of-zero", op="log", detail="log of 0.0")
class GaussianWithoutVariance(Sick):
    def loss(self, x, y):
        z = self(x)
        variance = (z - z).square()
        return F.gaussian_nll_loss(z, F.one_hot(y, CLASSES) + z, variance, eps=0.0, full=True)  # <- here


@sick("log-of-zero", op="log", detail="log of 0.0")
class GumbelNoise(Sick):
    def loss(self, x, y):
        uniform = torch.arange(CLASSES) / CLASSES  # 0 is among them
        noise = -torch.log(-torch.log(uniform))
        early = (self(x) * 0).exp().sub(1).log()  # <- here
        return (early + noise.nan_to_num(0, 0, 0)).mean()


@sick("log-of-negative", op="log1p", detail="log1p of -")
class Compressed(Sick):
    def loss(self, x, y):
        z = self(x) - 50
        return torch.log1p(z).mean()  # <- here


@sick("trig-domain", op="erfinv", detail="erfinv of 1.0")
class Probit(Sick):
    def loss(self, x, y):
        p = torch.sigmoid(self(x) + 200)
        return torch.erfinv(2 * p - 1).mean()  # <- here


@sick("trig-domain", op="asin", detail="asin of ")
class AngleOfASum(Sick):
    def loss(self, x, y):
        z = self(x) + 5
        return z.asin().mean()  # <- here


@sick("trig-domain", op="acosh", detail="acosh of ")
class HyperbolicDistance(Sick):
    def loss(self, x, y):
        z = self(x) * 0 + 0.5
        return z.acosh().mean()  # <- here


@sick("gamma-pole", op="lgamma", detail="lgamma of 0.0")
class CountsWithoutRate(Sick):
    def loss(self, x, y):
        rate = self(x).relu() * 0
        return torch.lgamma(rate).mean()  # <- here


@sick("gamma-pole", op="digamma", detail="digamma of 0.0")
class DirichletWithoutConcentration(Sick):
    def loss(self, x, y):
        concentration = self(x).relu() * 0
        return torch.digamma(concentration).mean()  # <- here


@sick("singular-matrix", detail="of a matrix whose determinant is 0")
class LogDeterminant(Sick):
    def loss(self, x, y):
        z = self(x)[:CLASSES].float() * 0
        return torch.logdet(z)  # <- here


@sick("pow-domain", op="sqrt", detail="sqrt of -")
class DeviationByHand(Sick):
    def loss(self, x, y):
        z = self(x).float() * 1e-3 + 1000
        variance = z.square().mean(0) - z.mean(0).square() - 1
        return variance.sqrt().mean()  # <- here


@sick("log-of-zero", op="log", detail="log of 0.0")
class Determinant(Sick):
    def loss(self, x, y):
        z = self(x)[:CLASSES].float() * 0
        return torch.linalg.det(z).log()  # <- here
