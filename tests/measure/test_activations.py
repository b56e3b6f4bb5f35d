from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_tuning.measure.activations import (
    attention_rows,
    attention_scores,
    saturation,
    score_spread,
    silent_units,
)
from lightning_tuning.measure.unit_counts import UnitCounts

NAN = math.nan


def naive_silent(values: Tensor, dim: int, *, exact: bool = False) -> list[float]:
    """One unit after the other, one value after the other."""
    units = values.movedim(dim, 0).reshape(values.shape[dim], -1).tolist()
    return [float(all(v == 0 if exact else v <= 0 for v in unit)) for unit in units]


@pytest.mark.parametrize(
    ("shape", "dim"), [((16, 8), -1), ((4, 8, 5, 5), -3), ((4, 6, 8), -1), ((4, 8, 6), -2), ((8, 3), -2), ((1, 8), -1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("exact", [False, True])
def test_silent_units(shape: tuple[int, ...], dim: int, dtype: torch.dtype, exact: bool) -> None:
    values = torch.randn(shape).to(dtype)
    shift = torch.zeros(shape[dim]).index_fill_(0, torch.arange(0, shape[dim], 2), -9.0)
    values = F.relu(values + shift.view([-1 if i == len(shape) + dim else 1 for i in range(len(shape))]))
    silent = silent_units(values, dim, exact=exact)
    assert silent.dtype is torch.float32
    assert silent.tolist() == naive_silent(values, dim, exact=exact)
    assert silent.sum() >= shape[dim] // 2
    if len(shape) == 4:
        assert silent_units(values.to(memory_format=torch.channels_last), dim).tolist() == naive_silent(values, dim)


@pytest.mark.parametrize(
    ("values", "silent"), [([NAN, 0.0], 0.0), ([-1.0, 0.0], 1.0), ([-0.0], 1.0), ([math.inf], 0.0), ([-math.inf], 1.0)]
)
def test_odd_values(values: list[float], silent: float) -> None:
    assert silent_units(torch.tensor(values)[:, None], -1).tolist() == [silent]


def test_exact_silence_is_not_below_zero() -> None:
    assert silent_units(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), -1, exact=True).tolist() == [0.0, 1.0]


AWAY_FROM_THE_BOUNDS = st.floats(-1, 1, width=32).filter(lambda v: min(abs(abs(v) - 0.97), abs(abs(v) - 0.96)) > 1e-4)
"""Where float32 may round to the other side of one."""


@given(st.lists(AWAY_FROM_THE_BOUNDS, min_size=1, max_size=20))
def test_saturation(values: list[float]) -> None:
    given_, squashed = torch.tensor(values), (torch.tensor(values) + 1) / 2
    tanh = sum(abs(v) > 0.97 for v in given_.double().tolist()) / len(values)
    sigmoid = sum(abs(v - 0.5) > 0.48 for v in squashed.tolist()) / len(values)
    assert saturation(given_, "tanh").item() == pytest.approx(tanh, abs=1e-6)
    assert saturation(squashed, "sigmoid").item() == pytest.approx(sigmoid, abs=1e-6)


def test_nan_is_not_saturated() -> None:
    assert saturation(torch.tensor([NAN, 0.5]), "tanh").item() == 0


def naive_rows(scores: Tensor) -> list[float]:
    """Row after row, in double precision; keys last."""
    found = [0.0, 0.0, 0.0, 0.0]
    for row in scores[:8].reshape(-1, scores.shape[-1]).double():
        kept = row[row > -5e3]
        if len(kept) < 4:
            continue
        weights = (kept - kept.max()).exp()
        weights = weights / weights.sum()
        entropy = -sum(float(w) * math.log(w) for w in weights.tolist() if w > 0) / math.log(len(kept))
        for index, value in enumerate((entropy < 0.02, entropy > 0.98, entropy, 1)):
            found[index] += value
    return found


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("masked", [None, -math.inf, -1e4, -1e9, torch.finfo(torch.float32).min])
def test_attention_rows(scale: float, masked: float | None) -> None:
    scores = scale * torch.randn(10, 2, 6, 7)
    if masked is not None:
        scores = scores.masked_fill(torch.ones(6, 7, dtype=torch.bool).triu(1), masked)
    assert attention_rows(scores).tolist() == pytest.approx(naive_rows(scores), rel=1e-4, abs=1e-4)
    turned = attention_rows(scores.transpose(-2, -1), dim=-2)
    assert turned.tolist() == pytest.approx(naive_rows(scores), rel=1e-4, abs=1e-4)


def test_a_row_that_is_masked_as_a_whole_is_left_out() -> None:
    scores = torch.zeros(1, 2, 5)
    scores[0, 0] = -math.inf
    assert attention_rows(scores).tolist() == pytest.approx([0, 1, 1, 1])
    assert attention_rows(torch.full((1, 2, 5), -math.inf)).tolist() == [0, 0, 0, 0]


MASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.ones(6, 6, dtype=torch.bool).tril()},
    "float": {"attn_mask": torch.randn(6, 6)},
    "padding": {"attn_mask": torch.arange(6)[None, None, None] < torch.tensor([4, 6, 5])[:, None, None, None]},
    "scaled": {"scale": 0.7},
    "no dropout": {"dropout_p": 0.0},
}


@pytest.mark.parametrize("mask", MASKS)
def test_scores_are_those_of_torchs_attention(mask: str) -> None:
    query, key, value = torch.randn(3, 3, 2, 6, 4)
    scores = attention_scores(query, key, value, **MASKS[mask])
    expected = F.scaled_dot_product_attention(query, key, value, **MASKS[mask])
    torch.testing.assert_close(scores.softmax(-1) @ value, expected)


def test_scores_of_grouped_queries_and_of_the_last_ones_of_many() -> None:
    query, key, value = torch.randn(2, 4, 80, 8), torch.randn(2, 2, 80, 8), torch.randn(2, 2, 80, 8)
    scores = attention_scores(query, key, value, is_causal=True, enable_gqa=True)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(scores.softmax(-1) @ value.repeat_interleave(2, 1), expected[..., -64:, :])


def test_the_spread_of_scores() -> None:
    scores = 5 * torch.randn(4, 50, 60)
    assert score_spread(scores).item() == pytest.approx(float(scores.var(-1, correction=0).mean().sqrt()), rel=1e-4)
    masked = scores.masked_fill(torch.ones(50, 60, dtype=torch.bool).triu(20), -math.inf)
    assert score_spread(masked).item() == pytest.approx(5, rel=0.05)
    assert score_spread(torch.full((1, 2, 5), -math.inf)).item() == 0


def test_counts_of_looks() -> None:
    counts = UnitCounts([3, 0])
    one = torch.ones(4)
    looks: list[Any] = [
        {0: (torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]), one), 1: (None, None, one)},
        {0: (torch.tensor([1.0, 0.0, 1.0]), None, one)},
    ]
    for look in looks:
        counts.update(look)
    assert counts.compute().tolist() == [[1, 2] + [2] * 4, [0, 1] + [1] * 4]
    other = UnitCounts([3, 0])
    other.load_counts(counts.counts())
    other.update({})
    assert torch.equal(other.compute(), counts.compute())
    other.reset()
    other.update({})
    assert other.compute()[:, 0].tolist() == [0, 0], "what was never looked at is not dead"


def test_counts_that_do_not_fit_are_left_out() -> None:
    counts = UnitCounts([2])
    counts.load_counts(UnitCounts([3, 1]).counts())
    assert counts.silent.shape == (2,)
