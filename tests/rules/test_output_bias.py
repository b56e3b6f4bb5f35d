"""LT207 by tables of targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_tuning.rules._weight_facts import WeightFacts
from lightning_tuning.rules.output_bias import Targets, output_bias, targets_in

UNTOUCHED, ZERO, SET = WeightFacts((3,), 0.02, 0.1), WeightFacts((3,), 0.0, 0.0), WeightFacts((3,), -2.0, 2.5)


def classes(*counts: int) -> Targets:
    return Targets(sum(counts), 0.0, 0.0, counts)


def bits(size: int, share: float) -> Targets:
    return Targets(size, share, share * (1 - share))


@pytest.mark.parametrize(
    ("kind", "targets", "words"),
    [
        ("cross_entropy", classes(200, 10, 40), "class 0 has 200 of 250 targets in the first batch, class 1 10"),
        ("nll", classes(0, 90, 40), "class 0 0: log shares from -5.56"),
        ("bce_logits", bits(256, 0.05), "0.05 of the 256 targets in the first batch are positive: log odds -2.94"),
        ("bce", bits(256, 0.95), "log odds 2.94"),
        ("mse", Targets(64, 300.0, 25.0), "300 +- 5"),
        ("mse", Targets(64, -40.0, 0.0), "start at -40"),
    ],
)
@pytest.mark.parametrize("bias", [UNTOUCHED, ZERO])
def test_sick(kind: str, targets: Targets, words: str, bias: WeightFacts) -> None:
    finding = output_bias(kind, targets, bias, 16, name="head.bias", where="head")  # type: ignore[arg-type]
    assert finding is not None
    assert words in finding.message
    assert math.isfinite(float(finding.evidence["suggested"]))


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("cross_entropy", classes(90, 10, 40)),
        ("cross_entropy", classes(16, 0, 1)),  # too few to tell
        ("cross_entropy", classes(250, 0, 0)),  # sorted, or all of one class
        ("cross_entropy", classes(*[1] * 500, 300)),  # words
        ("cross_entropy", classes(100)),
        ("cross_entropy", Targets(64, 0.5, 0.2)),  # of probabilities
        ("bce_logits", bits(256, 0.2)),
        ("bce_logits", bits(16, 1 / 16)),
        ("bce_logits", bits(256, 0.0)),
        ("bce_logits", bits(256, 1.0)),
        ("mse", Targets(64, 2.0, 1.0)),
        ("mse", Targets(64, 0.5, 0.0)),
        ("l1", Targets(64, 300.0, 1.0)),
    ],
)
def test_healthy(kind: str, targets: Targets) -> None:
    assert output_bias(kind, targets, ZERO, 16, name="head.bias") is None  # type: ignore[arg-type]


def test_a_bias_that_was_set_is_left_alone() -> None:
    assert output_bias("bce_logits", bits(256, 0.05), SET, 16, name="head.bias") is None
    broken = WeightFacts((3,), math.nan, math.nan)
    assert output_bias("bce_logits", bits(256, 0.05), broken, 16, name="head.bias") is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([0, 1, 1, -100, 7]), Targets(3, 0.0, 0.0, (1, 2, 0))),
        (torch.tensor([-100]), None),
        (torch.tensor([], dtype=torch.long), None),
    ],
)
def test_classes_are_counted(values: Tensor, expected: Targets | None) -> None:
    assert targets_in(values, classes=3) == expected


@pytest.mark.parametrize("values", [torch.tensor([math.nan]), torch.tensor([math.inf, 1.0]), torch.zeros(0)])
def test_numbers_that_say_nothing(values: Tensor) -> None:
    assert targets_in(values) is None


def test_numbers() -> None:
    assert targets_in(torch.tensor([1.0, 3.0], dtype=torch.bfloat16)) == Targets(2, 2.0, 1.0)


def test_entropy() -> None:
    assert classes(5, 5, 0).entropy == pytest.approx(math.log(2))
    assert Targets(3, 0.0, 1.0).entropy == 0
