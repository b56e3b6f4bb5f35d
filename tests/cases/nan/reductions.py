"""Averages of nothing, softmax over nothing, sums of too much, and numbers that were infinite from the start."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.nan.case import INF, Sick, sick
from tests.helpers import CLASSES


@sick("masked-softmax", op="softmax", detail="softmax: 16 of 16 rows are -inf alone")
class AttentionWithNothingToLookAt(Sick):
    def loss(self, x, y):
        scores = self(x) @ self(x).T
        scores = scores.masked_fill(y[None] > -1, -INF)
        return scores.softmax(-1).mean()  # <- here


@sick("masked-softmax", op="log_softmax")
class AllClassesMasked(Sick):
    def loss(self, x, y):
        z = self(x) + torch.full((CLASSES,), -INF)
        return F.cross_entropy(z, y)  # <- here


@sick("empty-reduction", op="mean", detail="mean of no values")
class MeanOfNothing(Sick):
    def loss(self, x, y):
        z = self(x)[y > 99]
        return z.mean()  # <- here


@sick("empty-reduction", op="std", detail="std of 1 value")
class DeviationOfOne(Sick):
    def loss(self, x, y):
        z = self(x)[:1]
        return z.std(0).mean()  # <- here


@sick("all-targets-ignored", op="nll_loss", detail="cross_entropy: all 16 targets are ignore_index (-100)")
class OnlyPadding(Sick):
    def loss(self, x, y):
        z = self(x)
        return F.cross_entropy(z, torch.full_like(y, -100))  # <- here


@sick("constant", op="masked_fill", detail="masked_fill with -inf")
class MaskInTheLoss(Sick):
    def loss(self, x, y):
        z = self(x).log_softmax(-1)
        z = z.masked_fill(F.one_hot(y, CLASSES).bool(), -INF)  # <- here
        return -z.mean()


@sick("masked-softmax", op="softmax", detail="64 of 64 rows of the attention mask are -inf alone")
class PaddingAlone(Sick):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def loss(self, x, y):
        tokens = x.view(4, 4, 8).repeat(2, 1, 1)
        padding = torch.ones(8, 4, dtype=torch.bool)
        mixed, _ = self.attention(tokens, tokens, tokens, key_padding_mask=padding)  # <- here
        return F.cross_entropy(self(mixed.reshape(-1, 8)[:16]), y)


@sick("masked-softmax", op="logsumexp", detail="logsumexp: 16 of 16 rows are -inf alone")
class LogSumOfNothing(Sick):
    def loss(self, x, y):
        z = self(x).masked_fill(y[:, None] > -1, -INF)
        return z.logsumexp(-1).mean()  # <- here


@sick("empty-reduction", op="var", detail="var of 1 value")
class VarianceOfOne(Sick):
    def loss(self, x, y):
        z = self(x)[:1].mean(-1)
        return z.var()  # <- here


@sick("empty-reduction", op="median", detail="median of no values")
class MedianOfNothing(Sick):
    def loss(self, x, y):
        z = self(x)[y > 99]
        return z.median() + self(x).mean()  # <- here


@sick("empty-reduction", op="nll_loss", detail="cross_entropy of no targets")
class CrossEntropyOfNothing(Sick):
    def loss(self, x, y):
        kept = y > 99
        return F.cross_entropy(self(x)[kept], y[kept])  # <- here


@sick("all-targets-ignored", op="nll_loss", detail="the class weights of all targets are 0")
class WeightsOfNothing(Sick):
    def loss(self, x, y):
        return F.cross_entropy(self(x), y * 0, weight=torch.tensor([0.0, 1.0, 1.0]))  # <- here


@sick("target-too-long", op="ctc_loss", detail="targets of up to 4 labels, inputs of 4 steps")
class TranscriptTooLong(Sick):
    def loss(self, x, y):
        z = self(x)[:4, None].float().log_softmax(-1)
        return F.ctc_loss(z, torch.tensor([[1, 1, 1, 1]]), torch.tensor([4]), torch.tensor([4]))  # <- here


@sick("constant", op="mul", detail="mul with inf")
class PenaltyWithoutEnd(Sick):
    def loss(self, x, y):
        loss = F.cross_entropy(self(x), y)
        return loss * math.inf  # <- here


@sick("constant", op="new_full", detail="new_full with -inf")
class BestScoreOfNone(Sick):
    def loss(self, x, y):
        best = x.new_full((16,), -INF)  # <- here
        best = torch.where(y > 99, self(x).amax(-1).float(), best)
        return -best.mean()
