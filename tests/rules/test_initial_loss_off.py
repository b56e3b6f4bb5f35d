"""LT206: what a first loss should be, against losses of fresh nets; and for which losses nobody can say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules._output_layer import only_output_layer, targets_of
from lightning_tuning.rules.initial_loss_off import ExpectedLoss, expected_loss, initial_loss_off
from tests.rules.first_steps import Loss, first_step

LN10 = math.log(10)


@pytest.mark.parametrize(
    ("loss", "expected", "found"),
    [
        (LN10, ExpectedLoss(LN10, LN10, "ln 10"), False),
        (1.36 * LN10, ExpectedLoss(LN10, LN10, "ln 10"), False),  # He's head behind a batch norm
        (1.99 * LN10, ExpectedLoss(LN10, LN10, "ln 10"), False),
        (2.01 * LN10, ExpectedLoss(LN10, LN10, "ln 10"), True),
        (0.3, ExpectedLoss(LN10, LN10, "ln 10"), True),
        (0.3, ExpectedLoss(LN10, 0.0, "ln 10"), False),  # nobody knows the prior
        (0.2, ExpectedLoss(math.log(2), 0.2, "ln 2"), False),  # the bias knows it
        (0.09, ExpectedLoss(math.log(2), 0.2, "ln 2"), True),
        (math.nan, ExpectedLoss(LN10, LN10, "ln 10"), False),
        (math.inf, ExpectedLoss(LN10, LN10, "ln 10"), False),
        (0.0, ExpectedLoss(1.0, 0.0, ""), False),
        (-5.0, ExpectedLoss(1.0, 0.0, ""), False),  # no such loss is below 0: nll_loss of raw outputs
    ],
)
def test_verdict(loss: float, expected: ExpectedLoss, found: bool) -> None:
    assert (initial_loss_off(loss, expected) is not None) is found


@pytest.mark.parametrize(
    ("kind", "facts", "untrained", "constant"),
    [
        ("cross_entropy", {"classes": 10}, LN10, 0.0),
        ("nll", {"classes": 10, "entropy": 5.0}, LN10, LN10),  # of a batch that is no sample of its classes
        ("bce", {}, math.log(2), 0.0),
        ("bce_logits", {"mean": 0.5}, math.log(2), math.log(2)),
        ("bce_logits", {"mean": 0.0}, math.log(2), 0.0),
        ("bce_logits", {"mean": 1.0}, math.log(2), 0.0),
        ("mse", {"mean": 0.0, "variance": 2.0}, 2.0, 2.0),
    ],
)
def test_expected(kind: str, facts: dict[str, float], untrained: float, constant: float) -> None:
    expected = expected_loss(kind, **facts)  # type: ignore[arg-type]
    assert expected is not None
    assert expected[:2] == pytest.approx((untrained, constant))


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("cross_entropy", {}),
        ("cross_entropy", {"classes": 1}),
        ("mse", {}),
        ("mse", {"mean": 0.0, "variance": 0.0}),
        ("mse", {"mean": math.nan, "variance": 1.0}),
        ("mse", {"mean": 1e200, "variance": 1.0}),
        ("l1", {"mean": 0.0, "variance": 1.0}),
        ("other", {"classes": 10}),
    ],
)
def test_nobody_can_say(kind: str, facts: dict[str, float]) -> None:
    assert expected_loss(kind, **facts) is None  # type: ignore[arg-type]


def mlp(outputs: int = 10, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs), *more)


CLASSES, NUMBERS, BITS = torch.arange(64) % 10, torch.linspace(-2, 2, 64)[:, None], (torch.arange(64) % 2).float()

KNOWN: dict[str, tuple[nn.Module, Loss, Tensor, int, float]] = {
    "cross entropy": (mlp(), F.cross_entropy, CLASSES, 10, 1.0),
    "module": (mlp(), nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES, 10, 1.0),
    "nll": (mlp(10, nn.LogSoftmax(1)), F.nll_loss, CLASSES, 10, 1.0),
    "half": (mlp(), lambda out, y: 0.5 * F.cross_entropy(out, y), CLASSES, 10, 0.5),
    "accumulated": (mlp(), lambda out, y: F.cross_entropy(out, y) / 4, CLASSES, 10, 0.25),
    "mse": (mlp(1), F.mse_loss, NUMBERS, 1, 1.0),
    "bce": (mlp(1, nn.Sigmoid()), lambda out, y: F.binary_cross_entropy(out.squeeze(1), y), BITS, 1, 1.0),
    "unreduced": (mlp(), lambda out, y: F.cross_entropy(out, y, reduction="none").mean(), CLASSES, 10, 1.0),
    "casts": (mlp(), lambda out, y: F.cross_entropy(out.float(), y.int().long().view(-1)), CLASSES, 10, 1.0),
}


@pytest.mark.parametrize("case", KNOWN)
def test_output_layers(case: str) -> None:
    net, loss, y, classes, factor = KNOWN[case]
    step = first_step(net, torch.randn(64, 8), y, loss)
    layer = only_output_layer(step.graph)
    assert layer is not None
    assert (layer.op.module, layer.classes, layer.factor) == ("2", classes, factor)
    targets = targets_of(step.graph, layer.term, step.batch)
    assert targets is not None
    assert targets.numel() == y.numel()


def two_terms(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y) + 0.1 * F.mse_loss(out, torch.zeros_like(out))


def penalised(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y) + 1e-3 * out.square().sum()


class Similar(nn.Module):
    """Similarities of the samples with each other, as in contrastive learning."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        z = F.normalize(self.body(x))
        return z @ z.t() / 0.1


class Denoiser(nn.Module):
    """Predicts what is to be added."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


UNKNOWN: dict[str, tuple[Callable[[], nn.Module], Loss, Tensor]] = {
    "composite": (mlp, two_terms, CLASSES),
    "penalty": (mlp, penalised, CLASSES),
    "class weights": (mlp, nn.CrossEntropyLoss(weight=torch.ones(10)), CLASSES),
    "sum": (mlp, nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "contrastive": (Similar, F.cross_entropy, torch.arange(64)),
    "squashed": (lambda: mlp(1, nn.Sigmoid()), F.mse_loss, NUMBERS),
    "residual": (Denoiser, F.mse_loss, torch.randn(64, 8)),
    "temperature": (mlp, lambda out, y: F.cross_entropy(out / 0.1, y), CLASSES),
    "weighted samples": (
        mlp,
        lambda out, y: (torch.rand(64) * F.cross_entropy(out, y, reduction="none")).mean(),
        CLASSES,
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_losses_that_start_anywhere(case: str) -> None:
    make, loss, y = UNKNOWN[case]
    step = first_step(make(), torch.randn(64, 8), y, loss)
    assert only_output_layer(step.graph) is None


def test_computed_targets_are_not_known() -> None:
    step = first_step(mlp(1), torch.randn(64, 8), NUMBERS, lambda out, y: F.mse_loss(out, y.square()))
    layer = only_output_layer(step.graph)
    assert layer is not None
    assert targets_of(step.graph, layer.term, step.batch) is None


def test_blind() -> None:
    step = first_step(mlp(), torch.randn(64, 8), CLASSES)
    step.graph.blind.append("Something was compiled.")
    assert only_output_layer(step.graph) is None
