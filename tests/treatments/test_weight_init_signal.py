"""What initialisation is for: in a deep plain network the samples stay apart, and it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import TinyModule, blobs, quiet_trainer

DEPTH = 12


class DeepMlp(TinyModule):
    """Twelve hidden layers, neither normalized nor residual."""

    shape = (32,)

    def build(self) -> nn.Module:
        hidden = (layer for _ in range(DEPTH) for layer in (nn.Linear(64, 64), nn.ReLU()))
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), *hidden, nn.Linear(64, 3))


def apartness(model: DeepMlp) -> float:
    """Standard deviation between the samples over the root mean square, behind the last hidden layer."""
    x: Tensor = blobs(256, (32,)).tensors[0]
    with torch.no_grad():
        x = model.net[:-1](x)
    return float(x.std(0).square().mean().sqrt() / x.square().mean().sqrt())


def run(callbacks: list[Any], lr: float) -> tuple[DeepMlp, float]:
    model = DeepMlp(lr)
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=5)
    trainer.fit(model)
    return model, float(trainer.callback_metrics["val_acc"])


def test_torchs_own_weights_lose_the_samples() -> None:
    assert apartness(DeepMlp()) < 3e-2


@pytest.mark.parametrize("scheme", ["he", "auto"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_samples_stay_apart(scheme: str, distribution: Any) -> None:
    model, _ = run([WeightInitCallback(scheme, distribution=distribution, seed=0)], lr=0.0)
    assert apartness(model) > 0.16


def test_the_network_learns() -> None:
    _, bare = run([], lr=0.02)
    _, treated = run([WeightInitCallback(seed=0)], lr=0.02)
    assert bare < 0.6
    assert treated > 0.95
