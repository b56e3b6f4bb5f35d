from __future__ import annotations

import pytest
import torch

from lightning_tuning.checks._rows import prints
from lightning_tuning.rules.degenerate_input import degenerate_input


def printed(**leaves):
    return {
        name: list(zip(*(column.tolist() for column in prints(leaf)), strict=True)) for name, leaf in leaves.items()
    }


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def message(batches, inputs, **kwargs):
    finding = degenerate_input([printed(**batch) for batch in batches], inputs, **kwargs)
    return None if finding is None else finding.message


HALF = torch.cat([torch.zeros(9, 16), randn(7, 16)])


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(16, 16), "16 of 16 samples of the batch are all zero"),
        (HALF, "9 of 16 samples of the batch are all zero"),
        (HALF[1:], "8 of 15 samples of the batch are all zero"),
        (randn(1, 16).expand(16, -1), "16 of 16 samples of the batch are identical"),
        (torch.full((16, 16), -0.4242), "16 of 16 samples of the batch are identical"),
        (randn(16, 16), None),
        (torch.eye(16)[torch.zeros(16, dtype=torch.long)], None),  # one-hot
        (torch.ones(16, 16), None),
        (torch.zeros(4, 16), None),
        (torch.full((16, 16), float("nan")), None),
    ],
)
def test_samples(x, expected):
    assert message([{"x": x}], {"x": 16}) == expected


def test_exactly_half_is_no_majority():
    assert message([{"x": torch.cat([torch.zeros(8, 16), randn(8, 16)])}], {"x": 16}) is None


def test_one_odd_batch_is_none():
    batches = [{"x": torch.zeros(16, 16)}, {"x": randn(16, 16)}, {"x": randn(16, 16, seed=1)}]
    assert message(batches, {"x": 16}) is None


def test_samples_are_compared_over_all_inputs():
    label = torch.zeros(16, 8)
    assert message([{"x": randn(16, 16), "c": label}], {"x": 16, "c": 8}) is None
    assert message([{"x": torch.zeros(16, 16), "c": label}], {"x": 16, "c": 8}) is not None
    assert message([{"x": torch.zeros(16, 16), "edges": randn(2, 40)}], {"x": 16, "edges": 40}) is None
    assert message([{"x": torch.zeros(16, 16)}], {"x": 16, "unknown": 1}) is None
    assert message([{"x": torch.zeros(16, 16)}], {}) is None
    assert message([], {"x": 16}) is None


def test_batches():
    same, other = {"x": randn(16, 16)}, {"x": randn(16, 16, seed=1)}
    assert message([same] * 3, {"x": 16}) == "each of the first 3 batches is the same one"
    assert message([same] * 3, {"x": 16}, may_repeat=True) is None
    assert message([same] * 2, {"x": 16}) is None
    assert message([same, same, other], {"x": 16}) is None
    shuffled = {"x": same["x"].flip(0)}
    assert message([same, shuffled, same], {"x": 16}) is None


def test_whole_numbers_have_prints_too():
    ids = torch.randint(1000, (16, 12), generator=torch.Generator().manual_seed(0))
    assert message([{"x": ids}], {"x": 12}) is None
    assert message([{"x": ids[:1].expand(16, -1)}], {"x": 12}) == "16 of 16 samples of the batch are identical"
