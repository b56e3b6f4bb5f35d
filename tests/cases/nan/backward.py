"""A finite loss, and a gradient that is not."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from tests.cases.nan.case import Sick, sick
from tests.helpers import CLASSES


@sick("sqrt-at-zero", kind="backward", op="sqrt", detail="sqrt'(0) is infinite")
class RootAtZero(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        return torch.sqrt(z).mean()  # <- here


@sick("norm-at-zero", kind="backward", op="sqrt", detail="sqrt'(0) is infinite")
class OwnNormAtZero(Sick):
    def loss(self, x, y):
        z = self(x)
        difference = z - z
        squares = (difference**2).sum(-1)
        return squares.sqrt().mean()  # <- here


@sick("repeated-eigenvalues", kind="backward", op="linalg_eigh", detail="gradient of eigh at equal eigenvalues")
class VectorsOfEqualEigenvalues(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        return torch.linalg.eigh(z.T @ z)[1].abs().sum()  # <- here


@sick("repeated-eigenvalues", kind="backward", op="linalg_svd", detail="gradient of svd at equal or zero singular")
class VectorsOfEqualSingularValues(Sick):
    def loss(self, x, y):
        z = self(x)[:CLASSES] * 0 + torch.eye(CLASSES)
        return torch.linalg.svd(z)[0].abs().sum()  # <- here


@sick("norm-at-zero", kind="backward", op="hypot", detail="the gradient of hypot at 0 does not exist")
class HypotenuseAtZero(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        return torch.hypot(z, z).mean()  # <- here


@sick("pow-domain", kind="backward", op="pow", detail="(0.0) ** -0.5")
class HalfPowerAtZero(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        return z.pow(0.5).mean()  # <- here


@sick("trig-domain", kind="backward", op="acos")
class AngleAtTheEdge(Sick):
    def loss(self, x, y):
        z = self(x) * 0 + 1
        return torch.acos(z).mean()  # <- here


@sick("where-branch", kind="backward", op="log", detail="0 * inf")
class WhereWithALogarithm(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        logarithm = torch.log(z)  # <- here
        return torch.where(z > 0, logarithm, torch.zeros_like(z)).mean()


@sick("where-branch", kind="backward", op="sqrt", detail="0 * inf")
class WhereWithARoot(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        root = z.sqrt()  # <- here
        return torch.where(z > 0, root, torch.zeros_like(z)).mean()


@sick("where-branch", kind="backward", op="exp", detail="0 * inf")
class WhereWithAnExponential(Sick):
    def loss(self, x, y):
        z = self(x) + 100
        grown = z.exp()  # <- here
        return torch.where(z > 50, z, grown).mean()


@sick("where-branch", kind="backward", op="pow", detail="0 * inf")
class MaskedPower(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        power = z**0.5  # <- here
        return power.masked_fill(z == 0, 0.0).mean()


@sick("where-branch", kind="backward", op="reciprocal", detail="0 * inf")
class WhereWithADivision(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        inverse = 1 / z  # <- here
        return torch.where(z > 0, inverse, z).mean()


@sick("overflow", kind="backward", op="mul")
class SteepFactors(Sick):
    def loss(self, x, y):
        z = self(x) * 1e-38
        z = z * 1e22  # <- here
        return (z * 1e22).mean()


@sick("sqrt-at-zero", kind="backward", op="sqrt")
class GradientInsideACheckpoint(Sick):
    def loss(self, x, y):
        def inner(z):
            z = z * 0
            return z.sqrt()  # <- here

        return checkpoint(inner, self(x), use_reentrant=False).mean()


@sick("norm-at-zero", kind="backward", op="sqrt", detail="sqrt'(0) is infinite")
class DistanceByHand(Sick):
    def loss(self, x, y):
        z = self(x).float()
        squares = (z[:, None] - z[None]).square().sum(-1)  # of each to itself: 0
        return squares.sqrt().mean()  # <- here


@sick("norm-at-zero", kind="backward", op="sqrt", detail="sqrt'(0) is infinite")
class DeviationWithoutSpread(Sick):
    def loss(self, x, y):
        z = self(x) * 0
        variance = (z - z.mean(0)).square().mean(0)
        return variance.sqrt().sum()  # <- here


@sick("pow-domain", kind="backward", op="pow")
class PNormByHand(Sick):
    def loss(self, x, y):
        z = self(x).relu() * 0
        return z.pow(0.3).sum(-1).mean()  # <- here


@sick("trig-domain", kind="backward", op="acosh")
class HyperbolicEdge(Sick):
    def loss(self, x, y):
        z = self(x) * 0 + 1
        return z.acosh().mean()  # <- here


@sick("trig-domain", kind="backward", op="asin")
class ArcSineAtTheEdge(Sick):
    def loss(self, x, y):
        z = self(x) * 0 - 1
        return torch.asin(z).mean()  # <- here


@sick("division-by-zero", kind="backward", op="xlogy")
class EntropyOfCertainty(Sick):
    def loss(self, x, y):
        p = self(x).relu() * 0
        return -torch.xlogy(p, p).sum(-1).mean()  # <- here


@sick("log-of-zero", kind="backward", op="special_entr")
class EntropyFunction(Sick):
    def loss(self, x, y):
        p = self(x).relu() * 0
        return torch.special.entr(p).sum(-1).mean()  # <- here


@sick("singular-matrix", kind="backward", op="linalg_qr")
class Orthonormalized(Sick):
    def loss(self, x, y):
        z = self(x)[:CLASSES].float() * 0
        return torch.linalg.qr(z)[0].sum()  # <- here


@sick("where-branch", kind="backward", op="div", detail="0 * inf")
class SafeDivisionAfterwards(Sick):
    def loss(self, x, y):
        counts = (self(x).relu() * 0).sum(-1)
        means = self(x).sum(-1) / counts  # <- here
        return torch.where(counts > 0, means, torch.zeros_like(means)).mean()


@sick("where-branch", kind="backward", op="log", detail="0 * inf")
class NanToNumAfterwards(Sick):
    def loss(self, x, y):
        z = self(x).relu() * 0
        logarithm = z.log()  # <- here
        return logarithm.nan_to_num(neginf=0.0).mean()


@sick("where-branch", kind="backward", op="acos", detail="0 * inf")
class AngleThatIsMasked(Sick):
    def loss(self, x, y):
        cosine = self(x) * 0 + 1
        angle = torch.acos(cosine)  # <- here
        return torch.where(cosine < 1, angle, torch.zeros_like(angle)).mean()
