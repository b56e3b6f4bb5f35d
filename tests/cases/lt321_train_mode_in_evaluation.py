"""LT321: a validation that goes back to training mode, at its start or in its steps."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import BNConvNet, DropoutNet


class TrainsAtStart(BNConvNet):
    def on_validation_start(self) -> None:
        self.train()


class TrainsInStep(DropoutNet):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.train()
        super().validation_step(batch, batch_idx)


class MonteCarlo(DropoutNet):
    def on_validation_epoch_start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()


SANE = {"num_sanity_val_steps": 0}
CASES = [
    Case(code="LT321", sick=Run(TrainsAtStart), healthy=Run(BNConvNet), where="net.1", severity="error"),
    Case(
        code="LT321",
        name="in the step, no sanity check",
        sick=Run(TrainsInStep, trainer=SANE),
        healthy=Run(DropoutNet, trainer=SANE),
        where="net.2",
        severity="error",
    ),
    Case(
        code="LT321",
        name="dropout alone",
        sick=Run(MonteCarlo),
        healthy=Run(DropoutNet),
        where="net.2",
        severity="info",
    ),
]
