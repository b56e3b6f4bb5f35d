"""The hash against a plain one of Python's integers; and what it tells apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_tuning.functional import fingerprint
from lightning_tuning.functional.fingerprint import _GOLDEN, _MIXER, _PIECE

DTYPES = [
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.complex64,
    torch.complex128, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def some(dtype: torch.dtype, count: int) -> Tensor:
    draws = torch.randn(count, generator=torch.Generator().manual_seed(1))
    return draws > 0 if dtype is torch.bool else (draws * 50).to(dtype)


def plain(words: list[int]) -> int:
    """The same formula in Python's integers, which never wrap around by themselves."""
    whole, total = (1 << 64) - 1, 0
    for place, word in enumerate(words):
        mixed = ((place * _GOLDEN + word) * _MIXER) & whole
        total += (mixed ^ (mixed >> 32)) * _GOLDEN
    total &= whole
    return total - (1 << 64) if total >> 63 else total


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_the_formula(words: list[int]) -> None:
    assert fingerprint(torch.tensor(words, dtype=torch.int64)).item() == plain(words)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 3, 8, 9, 101])
def test_equal_bits_have_one_fingerprint_however_they_lie(dtype: torch.dtype, count: int) -> None:
    values = some(dtype, count)
    expected = fingerprint(values)
    assert expected.dtype is torch.int64
    assert expected.shape == ()
    moved = torch.cat([some(dtype, 1), values])[1:]  # begins in the middle of a word
    strided = torch.stack([values, values], dim=1)[:, 0]
    for same in (values.clone(), moved, strided, values.reshape(1, count, 1)):
        assert fingerprint(same) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_counts_and_its_place(dtype: torch.dtype) -> None:
    values = some(dtype, 11)
    prints = {fingerprint(values).item()}
    changes = 0
    for i in range(len(values)):
        changed = values.clone()
        changed[i] = not changed[i] if dtype is torch.bool else 77
        prints.add(fingerprint(changed).item())
        changes += 1
    for i, j in itertools.combinations(range(len(values)), 2):
        if values[i] != values[j]:
            swapped = values.clone()
            swapped[i], swapped[j] = values[j], values[i]
            prints.add(fingerprint(swapped).item())
            changes += 1
    assert len(prints) == 1 + changes


@pytest.mark.parametrize("place", [0, 1, 500, 999])
def test_every_bit_of_a_word_counts(place: int) -> None:
    words = some(torch.int64, 1000)
    prints = {fingerprint(words).item()}
    for bit in range(64):
        changed = words.clone()
        changed[place] ^= (1 << bit) if bit < 63 else -(1 << 63)
        prints.add(fingerprint(changed).item())
    assert len(prints) == 65


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.index_add(0, torch.tensor([3, 4, 5]), torch.tensor([1.0, -2.0, 1.0])),  # plain weighted sums agree
        lambda t: t.roll(1),
        lambda t: t.flip(0),
        lambda t: -t,
        lambda t: t.nextafter(torch.tensor(math.inf)),
    ],
)
def test_what_simple_sums_miss(change: Callable[[Tensor], Tensor]) -> None:
    values = torch.arange(64.0)
    assert fingerprint(change(values)) != fingerprint(values)


@pytest.mark.parametrize(
    ("first", "second"), [(0.0, -0.0), (math.nan, 1.0), (math.inf, math.nan), (math.inf, -math.inf), (0.0, 1e-45)]
)
def test_the_bits_and_not_the_values(first: float, second: float) -> None:
    assert fingerprint(torch.tensor([first])) == fingerprint(torch.tensor([first]))
    assert fingerprint(torch.tensor([first])) != fingerprint(torch.tensor([second]))


def test_zeros_are_not_nothing() -> None:
    prints = [fingerprint(torch.zeros(count, dtype=torch.int64)).item() for count in range(5)]
    assert len(set(prints[1:])) == 4
    assert prints[0] == 0


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = some(torch.float32, 1001)
    expected = fingerprint(values)
    monkeypatch.setitem(fingerprint.__globals__, "_PIECE", 7)
    assert fingerprint(values) == expected
    assert _PIECE > 7


def test_conjugated_and_negated_views() -> None:
    values = some(torch.complex64, 9)
    assert fingerprint(values.conj()) == fingerprint(values.conj().resolve_conj())
    assert fingerprint(values.conj().imag) == fingerprint(values.conj().imag.clone())


def test_a_parameter_keeps_its_graph() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert not fingerprint(parameter * 2).requires_grad
