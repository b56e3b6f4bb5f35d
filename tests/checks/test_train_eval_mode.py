"""TrainEvalModeCheck in real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from torch import Tensor, nn

from lightning_tuning import Finding, Journal, TuningWarning
from lightning_tuning.checks import TrainEvalModeCheck
from tests.helpers import MODEL_KINDS, BNConvNet, DropoutNet, TinyModule, quiet_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning_tuning.TuningWarning", "ignore:Found .* in eval mode at the start of training"
)


def findings_of(module: pl.LightningModule, check: TrainEvalModeCheck | None = None, **settings: Any) -> list[Finding]:
    trainer = quiet_trainer(callbacks=[check or TrainEvalModeCheck()], **settings)
    trainer.fit(module)
    return Journal.of(trainer).findings


def said(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.code, str(finding.severity), finding.where) for finding in findings]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_models(kind: type[TinyModule]) -> None:
    assert findings_of(kind(), max_epochs=2) == []


class LateTrain(BNConvNet):
    """Goes back to training mode within the last step of a validation."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if batch_idx == 3:
            self.train()


class Resting(BNConvNet):
    def build(self) -> nn.Module:
        net = super().build()
        net[4].eval()
        return net


class MonteCarlo(DropoutNet):
    def on_validation_epoch_start(self) -> None:
        self.net[2].train()


def test_at_the_end_of_the_last_step() -> None:
    assert said(findings_of(LateTrain())) == [("LT321", "error", "net.1")]


def test_it_warns_once_in_many_epochs() -> None:
    trainer = quiet_trainer(callbacks=[TrainEvalModeCheck()], max_epochs=3)
    with pytest.warns(TuningWarning, match="LT321"):
        trainer.fit(LateTrain())
    assert [finding.count for finding in Journal.of(trainer).findings] == [1]


@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0}, {"precision": "bf16-mixed"}], ids=str)
def test_resting(settings: dict[str, Any]) -> None:
    assert said(findings_of(Resting(), **settings)) == [("LT320", "error", "net.4")]


def test_declared_monte_carlo() -> None:
    assert said(findings_of(MonteCarlo())) == [("LT321", "info", "net.2")]
    assert findings_of(MonteCarlo(), TrainEvalModeCheck(allow=["net.2"])) == []
    assert findings_of(MonteCarlo(), TrainEvalModeCheck(allow=["net.*"]), max_epochs=2) == []


def test_a_resumed_run_has_statistics(tmp_path: Path) -> None:
    path = tmp_path / "one.ckpt"
    trainer = quiet_trainer(callbacks=[TrainEvalModeCheck()])
    trainer.fit(BNConvNet())
    trainer.save_checkpoint(path)
    module = Resting()  # a norm with the statistics of the first part: frozen, not forgotten
    again = quiet_trainer(callbacks=[TrainEvalModeCheck()], max_epochs=2)
    again.fit(module, ckpt_path=path)
    assert Journal.of(again).findings == []


@pytest.mark.parametrize("allow", ["net.2", [2], [None]])
def test_refuses_what_is_no_list_of_patterns(allow: Any) -> None:
    with pytest.raises(ValueError, match=r"`allow` must be a sequence of patterns of module paths, got"):
        TrainEvalModeCheck(allow=allow)
