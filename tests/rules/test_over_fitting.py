from __future__ import annotations

import math

import pytest

from lightning_tuning.rules.over_fitting import OverfittingJudge, Remedies, Validation

TRAIN = [2.0, 1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15]
VAL = [2.1, 1.2, 1.4, 1.5, 1.6, 1.7, 1.9, 2.0]
NAN = [math.nan] * 8
REST = {"train_acc": NAN, "val_acc": NAN}


def told(patience: int = 5, *, is_repeat: bool = True, **curves: list[float]) -> list[str]:
    curves = {"train_loss": TRAIN, "val_loss": VAL, **REST, **curves}
    judge, found = OverfittingJudge(patience), []
    for step in range(8):
        now = Validation(100 * step, **{name: values[step] for name, values in curves.items()})
        finding = judge.judge(now, Remedies(), is_repeat=is_repeat)
        found += [] if finding is None else [finding.message]
    return found


@pytest.mark.parametrize(
    ("curves", "fires"),
    [
        ({}, True),
        ({"val_loss": [2.1, 1.2, 1.25, 1.26, 1.27, 1.28, 1.28, 1.29]}, False),  # hardly rises
        ({"val_loss": [2.1, 1.2, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4]}, False),  # comes down again
        ({"train_loss": [2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]}, False),  # no longer learns
        ({"val_loss": [0.03, 0.02, 0.03, 0.03, 0.03, 0.03, 0.04, 0.04]}, False),  # of a gain of 2
        ({"val_loss": NAN}, False),
        ({"train_loss": [math.inf] * 8}, False),
        ({"train_acc": [0.8] * 8, "val_acc": [0.65] * 8}, True),
        ({"train_acc": [0.8] * 8, "val_acc": [0.75] * 8}, False),
        ({"train_acc": [0.99] * 8, "val_acc": [0.91] * 8}, True),
        ({"val_acc": [0.5, 0.6, 0.62, 0.63, 0.64, 0.65, 0.66, 0.67]}, False),  # overconfident, and better
        ({"val_acc": [0.5, 0.6, 0.59, 0.6, 0.6, 0.59, 0.58, 0.58]}, True),
    ],
)
def test_validation_that_rises_while_training_falls_is_told(curves: dict[str, list[float]], fires: bool) -> None:
    assert bool(told(**curves)) is fires


def test_new_samples_cannot_be_learned_by_heart() -> None:
    assert told(is_repeat=False) == []


def test_patience_is_asked_for() -> None:
    assert len(told(3)) == 4
    assert told(7) == []


def test_the_missing_remedies_are_named() -> None:
    assert "EarlyStopping" in Remedies(layer="net.2").missing()
    assert "before `net.2`" in Remedies(layer="net.2").missing()
    assert Remedies("", True, True, True).missing() == "more data, or a smaller net"


def test_a_resumed_judge_goes_on_as_if_unbroken() -> None:
    judge, resumed = OverfittingJudge(), OverfittingJudge()
    for step in range(4):
        judge.judge(Validation(step, TRAIN[step], VAL[step]), Remedies())
    resumed.load_state_dict(judge.state_dict())
    later = [Validation(step, TRAIN[step], VAL[step]) for step in range(4, 8)]
    assert [resumed.judge(one, Remedies()) for one in later] == [judge.judge(one, Remedies()) for one in later]
