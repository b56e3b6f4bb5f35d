"""LT510: a rate where a factor is asked for."""

from __future__ import annotations

import pytest
from torch.optim.lr_scheduler import LambdaLR, StepLR

from lightning_tuning.rules._schedule_curve import Curve, curve_of
from lightning_tuning.rules.lambda_absolute import lambda_absolute
from tests.rules.schedules import noam, optimizer


@pytest.mark.parametrize(
    ("lr", "factor", "fires"),
    [
        (1e-3, lambda epoch: 1e-3 * 0.95**epoch, True),
        (5e-4, lambda epoch: 5e-4, True),
        (1e-3, lambda epoch: 3e-4, True),
        (1e-3, noam, True),
        (1.0, noam, False),
        (0.5, noam, False),
        (1e-3, lambda epoch: 0.95**epoch, False),
        (1e-3, lambda epoch: min(1.0, (epoch + 1) / 1000), False),
        (1e-3, lambda epoch: (epoch + 1) * 1e-5, False),
        (1e-3, lambda epoch: 0.0, False),
        (0.1, lambda epoch: 0.1 * 0.95**epoch, False),
        (0.1, lambda epoch: 1e-3, False),
        (0.0, lambda epoch: 1e-3, False),
    ],
)
def test_verdict(lr: float, factor, fires: bool) -> None:  # type: ignore[no-untyped-def]
    scheduler = LambdaLR(optimizer(lr), factor)
    found = lambda_absolute(scheduler, "LambdaLR", curve_of(scheduler, 50))
    if factor is noam and lr == 1e-3:
        assert found is None  # it climbs: a ramp is no rate
        return
    assert (found is not None) == fires
    if found is not None:
        assert found.evidence["lr"] == pytest.approx(lr * factor(0))


def test_every_group_has_to_be_wrong() -> None:
    scheduler = LambdaLR(optimizer(1e-3, groups=2), [lambda epoch: 1e-3, lambda epoch: 1.0])
    assert lambda_absolute(scheduler, "LambdaLR", curve_of(scheduler, 5)) is None


def test_other_schedulers_have_no_function() -> None:
    assert lambda_absolute(StepLR(optimizer(1e-3), 3), "StepLR", Curve([0], [[1e-6]])) is None
