from __future__ import annotations

import math

import pytest

from lightning_tuning.rules.constant_rate_at_plateau import PlateauJudge, is_flat

FALL = [2.0, 1.2, 0.9]
FLAT = [0.8, 0.805, 0.8, 0.81, 0.8, 0.805, 0.8, 0.8, 0.81, 0.8, 0.8]


def at_plateau(losses: list[float], mode: str = "min", rates: list[float] | None = None) -> list[bool]:
    judge = PlateauJudge(patience=5)
    rates = rates or [0.1] * len(losses)
    return [judge.add({"metric": (mode, x)}, [rate]) for x, rate in zip(losses, rates, strict=True)]


def test_a_plateau_after_a_fall() -> None:
    assert at_plateau(FALL + FLAT) == [False] * 12 + [True] * 2


@pytest.mark.parametrize(
    "losses",
    [
        FALL,
        [2.0 * 0.95**i for i in range(20)],
        [2.0 - 0.02 * i for i in range(20)],
        [1.0, 0.4] + [0.45 - 0.004 * i + 0.05 * (-1) ** i for i in range(20)],
        [0.8] * 20,
        [2.0] + [1.96] * 20,
        [*FALL, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4],
        FALL + [0.05] + [0.051] * 10,
        [math.nan] * 20,
        FALL + [math.nan, 0.8] * 10,
        [math.inf] + [0.8] * 10,
        [0.0] * 20,
        [],
    ],
    ids=[
        "young", "falls", "creeps down", "under noise", "never fell", "hardly fell", "over-fits", "nearly done", "NaN",
        "NaN at times", "began at infinity, fell to what it is", "zeros", "nothing",
    ],
)  # fmt: skip
def test_no_plateau(losses: list[float]) -> None:
    assert not any(at_plateau(losses))


def test_metrics_that_rise() -> None:
    accuracies = [0.1, 0.4, 0.6, 0.7, *[0.705, 0.7, 0.702, 0.7, 0.703] * 2]
    assert at_plateau(accuracies, "max")[-1]
    assert not any(at_plateau([0.1, 0.5, *[0.99] * 20], "max")), "an accuracy of .99 has not much left to gain"
    assert not any(at_plateau([0.1 + 0.01 * i for i in range(20)], "max"))


def test_negative_losses() -> None:
    assert at_plateau([10.0, -5.0, -8.0, *[-8.05] * 10])[-1]


def test_a_changed_rate_begins_the_wait_anew() -> None:
    losses = FALL + FLAT
    assert not any(at_plateau(losses, rates=[0.1] * 6 + [0.05] * 8))
    assert at_plateau(losses + [0.8] * 3, rates=[0.1] * 6 + [0.05] * 11)[-1]


def test_all_metrics_have_to_be_flat() -> None:
    judge = PlateauJudge(patience=5)
    for i, loss in enumerate(FALL + FLAT):
        assert not judge.add({"val_loss": ("min", loss), "val_acc": ("max", 0.1 + 0.05 * i)}, [0.1])
    assert not judge.add({}, [0.1])


def test_the_level_before_the_first_step() -> None:
    judge = PlateauJudge(patience=5)
    judge.begin({"val_loss": ("min", 2.0), "val_x": ("min", math.nan)})
    assert [judge.add({"val_loss": ("min", 0.8)}, [0.1]) for _ in range(10)] == [False] * 9 + [True]
    finding = judge.finding(step=300)
    assert finding.evidence["first"] == 2.0
    assert 'PlateauLR(monitor="val_loss")' in finding.remedy


def test_state_survives() -> None:
    judge, other = PlateauJudge(patience=5), PlateauJudge(patience=5)
    for loss in FALL + FLAT[:9]:
        judge.add({"val_loss": ("min", loss)}, [0.1])
    other.load_state_dict(judge.state_dict())
    assert other.add({"val_loss": ("min", 0.8)}, [0.1])
    assert other.finding(1) == judge.finding(1)


def test_flat_rates() -> None:
    assert is_flat([[0.1, 0.1005]])
    assert is_flat([[], [0.0, 0.0]])
    assert not is_flat([[0.1, 0.1], [0.1, 0.09]])
