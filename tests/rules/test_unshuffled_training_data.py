from __future__ import annotations

from collections import Counter

import pytest

from lightning_tuning.rules.unshuffled_training_data import LabelOrder, entropy


def verdict(labels, size=16):
    order = LabelOrder()
    for start in range(0, len(labels), size):
        order.take(labels[start : start + size])
    return order.finding("batch[1]")


BY_CLASS = [label for label in range(4) for _ in range(50)]


@pytest.mark.parametrize(
    ("labels", "sorted_"),
    [
        (BY_CLASS, True),
        (BY_CLASS[::-1], True),
        ([3] * 60 + [0] * 60 + [7] * 60, True),
        ([0, 1, 2, 3] * 50, False),
        ([label for label in (0, 1, 0, 1) for _ in range(50)], False),  # what happened, in the order of time
        ([0] * 200, False),
        (list(range(200)), False),  # numbers of samples
        ([0] * 20 + [1] * 20, False),  # too few
        ([], False),
        ([label for label in range(40) for _ in range(2)], False),  # small groups: a batch holds many
    ],
)
def test_the_order(labels, sorted_):
    assert (verdict(labels) is not None) is sorted_


def test_what_it_says():
    finding = verdict(BY_CLASS)
    assert finding.evidence["classes"] == 4
    assert finding.evidence["batch_entropy_bits"] < 0.5 * finding.evidence["prior_entropy_bits"]


def test_a_class_that_comes_back_clears():
    order = LabelOrder()
    order.take([0] * 16 + [1])
    assert not order.is_cleared
    order.take([0])
    assert order.is_cleared


def test_entropy():
    assert entropy(Counter()) == 0
    assert entropy(Counter({0: 5})) == 0
    assert entropy(Counter({0: 4, 1: 4, 2: 0})) == 1
