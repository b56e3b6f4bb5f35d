"""The bias of the best constant answer, held against an optimizer that looks for it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.functional.output_prior import log_odds_prior, log_prior


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_no_constant_logits_have_a_lower_cross_entropy(smoothing: float) -> None:
    labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 99 + [3])
    bias = log_prior(torch.bincount(labels), label_smoothing=smoothing)
    bias.requires_grad_()
    loss = F.cross_entropy(bias.expand(1000, 4), labels, label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(loss, bias)
    assert float(gradient.detach().abs().max()) < 1e-3  # half a sample in each class is all that it differs by


def test_no_constant_logit_has_a_lower_binary_cross_entropy() -> None:
    targets = (
        torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.01, 0.5, 0.9])
    ).double()
    bias = log_odds_prior(targets.sum(0), 2000).requires_grad_()
    (gradient,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(bias.expand(2000, 3), targets), bias)
    assert float(gradient.abs().max()) < 1e-3


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.floats(0, 1))
def test_shares_are_shares_whatever_was_seen(counts: list[int], smoothing: float) -> None:
    bias = log_prior(torch.tensor(counts), label_smoothing=smoothing)
    assert bool(bias.isfinite().all())
    assert float(bias.exp().sum()) == pytest.approx(1.0)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_log_odds_are_finite_and_odd(positives: int, negatives: int) -> None:
    found = float(log_odds_prior(torch.tensor(positives), positives + negatives))
    mirrored = float(log_odds_prior(torch.tensor(negatives), positives + negatives))
    assert math.isfinite(found)
    assert found == pytest.approx(-mirrored, abs=1e-9)


def test_bad_arguments_are_named() -> None:
    for counts in (torch.ones(2, 2), torch.ones(0)):
        with pytest.raises(ValueError, match="`counts`"):
            log_prior(counts)
    with pytest.raises(ValueError, match="`label_smoothing`"):
        log_prior(torch.ones(2), label_smoothing=1.5)
    for total in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`total`"):
            log_odds_prior(torch.ones(1), total)
