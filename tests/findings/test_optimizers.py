"""The comparison of optimizers says of torch's what torch does."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest
import torch

from lightning_tuning.findings import CATALOGUE
from lightning_tuning.findings.optimizers import OPTIMIZERS, OptimizerFacts

every_one = pytest.mark.parametrize("facts", OPTIMIZERS.values(), ids=OPTIMIZERS)
LR, WEIGHT = 1e-3, 100.0


def make(facts: OptimizerFacts, weight: torch.Tensor, **arguments: float) -> torch.optim.Optimizer:
    kind = getattr(torch.optim, facts.torch_class)
    return kind([weight], **{"lr": LR, "weight_decay": 0.0, **facts.arguments, **arguments})


def first_update(facts: OptimizerFacts, gradient: float, **arguments: float) -> float:
    weight = torch.full((3,), WEIGHT, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.full_like(weight, gradient)
    make(facts, weight, **arguments).step()
    return float(WEIGHT - weight.detach()[0])


def test_the_optimizers_are_those_that_people_know() -> None:
    assert list(OPTIMIZERS) == ["SGD", "SGD+momentum", "Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW"]


@every_one
def test_defaults_are_torchs(facts: OptimizerFacts) -> None:
    parameters = inspect.signature(getattr(torch.optim, facts.torch_class)).parameters
    assert parameters["lr"].default == facts.default_lr
    assert parameters["weight_decay"].default == facts.default_decay
    assert facts.arguments.keys() <= parameters.keys()


@every_one
def test_state_is_that_of_a_step(facts: OptimizerFacts) -> None:
    weight = torch.ones(7, 5, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    optimizer = make(facts, weight)
    optimizer.step()
    kept = [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor) and v.shape == weight.shape]
    assert len(kept) == facts.states
    assert {tensor.dtype for tensor in kept} <= {torch.float32}


@every_one
def test_the_first_step_is_as_long_as_it_says(facts: OptimizerFacts) -> None:
    assert first_update(facts, 1.0) == pytest.approx(LR * facts.first_step, rel=1e-3)
    ratio = first_update(facts, 200.0) / first_update(facts, 100.0)
    assert ratio == pytest.approx(2.0 if facts.scales else 1.0, rel=1e-3)


@every_one
def test_decay_is_that_of_the_gradient_or_apart_from_it(facts: OptimizerFacts) -> None:
    decay = 0.1
    update = first_update(facts, 1.0, weight_decay=decay)
    if facts.torch_class == "AdamW":
        assert update == pytest.approx(LR * facts.first_step + LR * decay * WEIGHT, rel=1e-3)
    else:  # as if the gradient had been larger
        assert "adds weight_decay * weight to the gradient" in facts.decay
        assert update == pytest.approx(first_update(facts, 1.0 + decay * WEIGHT), rel=1e-9)
        assert (update == pytest.approx(first_update(facts, 1.0), rel=1e-3)) is not facts.scales


def test_adagrads_rate_falls_and_adadeltas_grows() -> None:
    def lengths(name: str, **arguments: float) -> list[float]:
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer, found = make(OPTIMIZERS[name], weight, **arguments), []
        for _ in range(400):
            before = float(weight.detach())
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            found.append(before - float(weight.detach()))
        return found

    falling = lengths("Adagrad")
    assert falling[399] == pytest.approx(falling[0] / 20, rel=1e-3)
    growing = lengths("Adadelta", lr=1.0)
    assert growing[0] < growing[99] < growing[399] < 0.01
    momentum = lengths("SGD+momentum")
    assert momentum[399] == pytest.approx(10 * LR, rel=1e-3)


@every_one
def test_what_is_said_is_complete_and_names_what_there_is(facts: OptimizerFacts) -> None:
    said = f"{facts.take} {facts.trap} {facts.decay} {facts.source}"
    assert all(code in CATALOGUE for code in re.findall(r"LT\d{3}", said))
    for module, name in re.findall(r"`(functional)\.(\w+)`", said):
        assert hasattr(importlib.import_module(f"lightning_tuning.{module}"), name)
    assert facts.usual_lr[0] < facts.usual_lr[1]
    assert "!" not in said
    assert facts.take.endswith(".")
    assert facts.trap.endswith(".")
    assert not facts.source.endswith(".")
