"""Runs for the tests of penalties and constraints, and what they are compared with."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler

from tests.helpers import ManualGAN, Mlp, quiet_trainer


class ByHand(Mlp):
    """Mlp, stepped by hand every second batch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            optimizer = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


class WithAdam(Mlp):
    fused = False

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2, fused=self.fused)


class WithFusedAdam(WithAdam):
    fused = True


class Overflows(WithAdam):
    """Two of its eight updates are left out by the GradScaler, and change nothing."""

    def on_before_backward(self, loss: torch.Tensor) -> None:
        self.before = {name: p.detach().clone() for name, p in self.named_parameters()}

    def on_after_backward(self) -> None:
        if self.trainer.fit_loop.epoch_loop.batch_idx in (2, 5):
            self.net[0].weight.grad[0, 0] = torch.inf

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        changed = any(not torch.equal(p, self.before[name]) for name, p in self.named_parameters())
        assert changed == (batch_idx not in (2, 5)), batch_idx


class OverflowsFused(Overflows):
    fused = True


def scaled() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**10))]}


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "automatic": (Mlp, {}),
    "adaptive": (WithAdam, {}),
    "manual": (ByHand, {}),
    "two optimizers": (ManualGAN, {}),
    "accumulation": (Mlp, {"accumulate_grad_batches": 2}),
    "bf16": (Mlp, {"precision": "bf16-mixed"}),
    "clipped": (Mlp, {"gradient_clip_val": 0.2}),
}


def fit(model: pl.LightningModule, *callbacks: pl.Callback, path: Any = None, **settings: Any) -> pl.Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(model, ckpt_path=path)
    return trainer


def assert_alike(one: pl.LightningModule, other: pl.LightningModule, rtol: float = 0, atol: float = 0) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def assert_nothing_left_on(trainer: pl.Trainer) -> None:
    assert all(not optimizer._optimizer_step_post_hooks for optimizer in trainer.optimizers)


class Logged(CSVLogger):
    """What was logged, in memory."""

    def __init__(self) -> None:
        super().__init__(".")
        self.numbers: dict[str, dict[int, float]] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        for name, number in metrics.items():
            if name.startswith("tuning/"):
                assert step not in self.numbers.get(name, {}), f"{name} is logged twice"
                self.numbers.setdefault(name, {})[step or 0] = number
