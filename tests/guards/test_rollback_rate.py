"""``cut_rates``: every schedule says ``factor`` times what it would have said, at every later step."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from lightning_tuning.guards._rollback_rate import cut_rates, rates_text

STEPS = 24

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # of a nested one


def chained(optimizer: Optimizer) -> lrs.LRScheduler:
    return lrs.ChainedScheduler([lrs.ConstantLR(optimizer, 0.5, 9), lrs.ExponentialLR(optimizer, 0.9)])


def warmed_up(optimizer: Optimizer) -> lrs.LRScheduler:
    parts = [lrs.LinearLR(optimizer, 0.1, total_iters=8), lrs.CosineAnnealingLR(optimizer, 16, eta_min=1e-3)]
    return lrs.SequentialLR(optimizer, parts, [8])


def nested(optimizer: Optimizer) -> lrs.LRScheduler:
    return lrs.SequentialLR(optimizer, [chained(optimizer), lrs.StepLR(optimizer, 4)], [12])


class Remembers(lrs.LRScheduler):
    """One that somebody wrote: from a start to an end, in numbers of its own."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.warmup_start_lr = 0.01
        self.end_lrs = (0.3, 0.2)
        self.hot_lr = True
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        share = self.last_epoch / STEPS
        return [self.warmup_start_lr + share * (end - self.warmup_start_lr) * self.hot_lr for end in self.end_lrs]


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda o: lrs.LambdaLR(o, lambda step: 0.95**step),
    "multiplicative": lambda o: lrs.MultiplicativeLR(o, lambda step: 0.95),
    "step": lambda o: lrs.StepLR(o, 5),
    "multistep": lambda o: lrs.MultiStepLR(o, [6, 15]),
    "constant": lambda o: lrs.ConstantLR(o, 0.25, 15),
    "linear": lambda o: lrs.LinearLR(o, 0.1, total_iters=18),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lrs.PolynomialLR(o, STEPS, 2.0),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 10, eta_min=0.01),
    "cosine-restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 7, eta_min=0.01),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.01, 0.5, step_size_up=5),
    "one-cycle": lambda o: lrs.OneCycleLR(o, 0.5, total_steps=STEPS + 1),
    "one-cycle-three-phases": lambda o: lrs.OneCycleLR(o, [0.5, 0.2], total_steps=STEPS + 1, three_phase=True),
    "swa": lambda o: SWALR(o, 0.02, anneal_epochs=15),
    "chained": chained,
    "sequential": warmed_up,
    "nested": nested,
    "own": Remembers,
}


def optimizer_of(lr: Any = 0.1) -> Optimizer:
    first, second = (torch.nn.Parameter(torch.ones(size)) for size in (2, 3))
    return SGD([{"params": [first]}, {"params": [second], "lr": lr * 2}], lr=lr, momentum=0.8)


def fake_trainer(optimizers: list[Optimizer], schedulers: list[Any], callbacks: list[Any] | None = None) -> Any:
    configs = [types.SimpleNamespace(scheduler=scheduler) for scheduler in schedulers]
    return types.SimpleNamespace(optimizers=optimizers, lr_scheduler_configs=configs, callbacks=callbacks or [])


def rates(
    make: Callable[[Optimizer], Any], cut_at: int | None, factor: float = 0.5
) -> list[tuple[list[float], list[float]]]:
    optimizer = optimizer_of()
    scheduler = make(optimizer)
    seen = []
    for step in range(STEPS):
        if step == cut_at:
            cut_rates(fake_trainer([optimizer], [scheduler]), factor)
        groups = optimizer.param_groups
        seen.append(([group["lr"] for group in groups], [group["momentum"] for group in groups]))
        assert scheduler.get_last_lr() == pytest.approx([group["lr"] for group in groups])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("cut_at", [0, 1, 5, 7, 8, 13, 20])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_keep_their_shape(name: str, cut_at: int) -> None:
    plain, cut = rates(SCHEDULES[name], None), rates(SCHEDULES[name], cut_at)
    for step, ((before, momentum), (after, its_momentum)) in enumerate(zip(plain, cut, strict=True)):
        factor = 0.5 if step >= cut_at else 1.0
        assert after == pytest.approx([factor * rate for rate in before], rel=1e-9, abs=1e-15), step
        assert its_momentum == momentum, step


@pytest.mark.parametrize("name", SCHEDULES)
def test_cut_twice_and_resumed(name: str) -> None:
    optimizer = optimizer_of()
    scheduler = SCHEDULES[name](optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    for _ in range(2):
        cut_rates(fake_trainer([optimizer], [scheduler]), 0.5)
    resumed = optimizer_of()
    other = SCHEDULES[name](resumed)
    resumed.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    plain = rates(SCHEDULES[name], None)
    for step in range(5, STEPS):
        assert [group["lr"] for group in resumed.param_groups] == pytest.approx([r / 4 for r in plain[step][0]])
        resumed.step()
        other.step()


def test_plateau_goes_on_cutting_down_to_its_own_floor() -> None:
    optimizer = optimizer_of()
    scheduler = lrs.ReduceLROnPlateau(optimizer, factor=0.1, patience=1, min_lr=0.01)
    cut_rates(fake_trainer([optimizer], [scheduler]), 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    for _ in range(8):
        scheduler.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01])
    cut_rates(fake_trainer([optimizer], [scheduler]), 0.5)
    for _ in range(8):
        scheduler.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.005])  # a floor lifts nothing


def test_rates_that_are_tensors_stay_the_same_tensors() -> None:
    optimizer = optimizer_of(torch.tensor(0.1))
    scheduler = lrs.ExponentialLR(optimizer, 0.5)
    before = [group["lr"] for group in optimizer.param_groups]
    cut_rates(fake_trainer([optimizer], [scheduler]), 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.05), pytest.approx(0.1)]
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, before, strict=True))
    optimizer.step()
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.025)


def test_a_scheduler_that_two_configurations_hold_is_cut_once() -> None:
    optimizer = optimizer_of()
    scheduler = lrs.StepLR(optimizer, 100)
    cut_rates(fake_trainer([optimizer], [scheduler, scheduler]), 0.5)
    assert scheduler.base_lrs == [0.05, 0.1]


@pytest.mark.parametrize("swa_lrs", [0.02, [0.02, 0.04]])
def test_rates_of_averaging_that_has_not_begun(swa_lrs: Any) -> None:
    callback = StochasticWeightAveraging(swa_lrs)
    cut_rates(fake_trainer([optimizer_of()], [], [callback]), 0.5)
    assert callback._swa_lrs == (0.01 if isinstance(swa_lrs, float) else [0.01, 0.02])


def test_text_is_short() -> None:
    assert rates_text(fake_trainer([optimizer_of()], [])) == "0.1, 0.2"
    assert rates_text(fake_trainer([optimizer_of(10.0**-i) for i in range(4)], [])) == "1, 2, 0.1, ..."
