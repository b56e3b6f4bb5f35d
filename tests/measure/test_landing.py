from __future__ import annotations

import math

import torch

from lightning_tuning.measure import Landing


def test_numbers_arrive_in_order_and_in_their_shapes() -> None:
    landing, got = Landing(), []
    landing.send([torch.tensor(2.5), torch.tensor([1.0, 4.0]), torch.zeros(0)], got.append)
    landing.send([torch.tensor([math.nan, math.inf, -math.inf, 0.0])], got.append)
    assert len(landing) == 2
    assert got == []
    landing.collect()
    assert got[0] == [[2.5], [1.0, 4.0], []]
    assert math.isnan(got[1][0][0])
    assert got[1][0][1:] == [math.inf, -math.inf, 0.0]
    assert len(landing) == 0


def test_half_precision_and_integers_land_as_floats() -> None:
    landing, got = Landing(), []
    landing.send([torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(3)], got.append)
    landing.collect(wait=True)
    assert got == [[[1.5], [3]]]


def test_what_is_forgotten_does_not_arrive() -> None:
    landing, got = Landing(), []
    landing.send([torch.tensor(1.0)], got.append)
    landing.clear()
    landing.collect(wait=True)
    assert got == []


def test_a_receiver_may_send_again() -> None:
    landing, got = Landing(), []

    def receive(numbers: list[list[float]]) -> None:
        got.append(numbers)
        if len(got) < 3:
            landing.send([torch.tensor(float(len(got)))], receive)

    landing.send([torch.tensor(0.0)], receive)
    landing.collect()
    assert got == [[[0.0]], [[1.0]], [[2.0]]]
