"""Results above what their number format holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.cases.nan.case import Sick, sick
from tests.helpers import CLASSES


@sick("exp-overflow", op="exp", detail="in float32 (largest: 88.72)")
class Exponential(Sick):
    def loss(self, x, y):
        z = self(x) + 90
        return torch.exp(z).mean()  # <- here


@sick("exp-overflow", op="exp")
class OwnSoftmax(Sick):
    def loss(self, x, y):
        z = self(x) + 100
        e = z.exp()  # <- here
        p = e / e.sum(-1, keepdim=True)  # inf / inf
        return F.nll_loss(p, y)


@sick("overflow", op="mul", detail="in float32 (largest: 3.403e+38)")
class Product(Sick):
    def loss(self, x, y):
        z = self(x) + 1e30
        return (z * z).mean()  # <- here


@sick("overflow", op="pow")
class Square(Sick):
    def loss(self, x, y):
        z = self(x) - 1e30
        return z.pow(2).mean()  # <- here


@sick("overflow", op="sum")
class Total(Sick):
    def loss(self, x, y):
        z = self(x) + 3e38
        return z.sum()  # <- here


@sick("overflow", op="matmul", detail="matmul: products of values up to 1e+25 exceed 3.403e+38 (float32)")
class ProductOfMatrices(Sick):
    def loss(self, x, y):
        z = self(x) + 1e25
        return (z @ z.T).mean()  # <- here


@sick("half-overflow", op="to", detail="in float16 (largest: 6.55e+04)")
class CastToHalf(Sick):
    def loss(self, x, y):
        z = 1e5 + self(x)
        return z.half().float().mean()  # <- here


@sick("half-overflow", op="mul")
class ProductInHalf(Sick):
    def loss(self, x, y):
        z = (self(x) + 300).half()
        z = z * z  # <- here
        return z.float().mean()


@sick("exp-overflow", op="exp", detail="in float16 (largest: 11.09)")
class ExponentialInHalf(Sick):
    def loss(self, x, y):
        z = (self(x) + 20).half()
        return z.exp().float().mean()  # <- here


@sick("overflow", op="mul", bf16=False, trainer={"precision": "bf16-true"})
class BrainFloatProduct(Sick):
    def loss(self, x, y):
        z = self(x) + 1e30
        return (z * z).mean()  # <- here


@sick("overflow", op="mse_loss", detail="mse_loss: squares of values up to 1e+25 exceed 3.403e+38 (float32)")
class SquaredError(Sick):
    def loss(self, x, y):
        z = self(x) + 1e25
        return F.mse_loss(z, torch.zeros_like(z))  # <- here


@sick("overflow", op="matmul", detail="matmul: sums of products of values up to 1.8e+19 exceed 3.403e+38 (float32)")
class SumOfProducts(Sick):
    def loss(self, x, y):
        z = self(x) + 1.8e19
        return (z @ z.T).mean()  # <- here


@sick("overflow", op="matmul")
class WeightsThatGrew(Sick):
    def loss(self, x, y):
        huge = self.net[2].weight * 1e38
        hidden = self.net[:2](x) + 10
        return F.linear(hidden, huge * 3).mean()  # <- here


@sick("exp-overflow", op="exp", detail="exp of 1")
class SoftplusByHand(Sick):
    def loss(self, x, y):
        z = self(x) + 120
        return (1 + z.exp()).log().mean()  # <- here


@sick("exp-overflow", op="exp")
class VarianceFromItsLogarithm(Sick):
    def loss(self, x, y):
        log_variance = self(x) + 100
        return (log_variance.exp() + log_variance).mean()  # <- here


@sick("exp-overflow", op="exp")
class PoissonRate(Sick):
    def loss(self, x, y):
        z = self(x) + 100
        return F.poisson_nll_loss(z, F.one_hot(y, CLASSES).float())  # <- here


@sick("exp-overflow", op="sinh", detail="sinh of ")
class HyperbolicSine(Sick):
    def loss(self, x, y):
        z = self(x) + 100
        return torch.sinh(z).mean()  # <- here


@sick("exp-overflow", op="cosh", detail="cosh of ")
class LogCoshByHand(Sick):
    def loss(self, x, y):
        error = self(x) - 120
        return error.cosh().log().mean()  # <- here


@sick("exp-overflow", op="expm1")
class GrowthRate(Sick):
    def loss(self, x, y):
        z = self(x) + 100
        return z.expm1().mean()  # <- here


@sick("overflow", op="cumprod")
class RunningProduct(Sick):
    def loss(self, x, y):
        z = self(x) + 1e20
        return z.cumprod(-1).mean()  # <- here


@sick("overflow", op="prod")
class ProductOfAll(Sick):
    def loss(self, x, y):
        z = self(x) + 1e20
        return z.prod(-1).mean()  # <- here


@sick("overflow", op="norm", detail="norm of values up to")
class NormOfTheHuge(Sick):
    def loss(self, x, y):
        z = self(x) + 3e38
        return z.norm()  # <- here


@sick("sum-reduction", op="sum", detail="sum over 49152 values up to", bf16=False)
class SumInHalf(Sick):
    def loss(self, x, y):
        errors = (self(x).half() + 40).repeat(1024, 1)
        return errors.sum()  # <- here


@sick("half-overflow", op="matmul", detail="(float16)", bf16=False, trainer={"precision": "bf16-mixed"})
class HalfByAutocast(Sick):
    def loss(self, x, y):
        z = self(x).float() + 300
        with torch.autocast("cpu", dtype=torch.float16):
            return (z @ z.T).float().mean()  # <- here
