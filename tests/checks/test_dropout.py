from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tuning import DropoutCheck, Finding, Journal
from tests.helpers import CLASSES, MODEL_KINDS, TinyModule, quiet_trainer


class Hidden(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.8), nn.Linear(32, CLASSES))


class Compiled(Hidden):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


def findings(module: TinyModule, **settings: object) -> list[Finding]:
    trainer = quiet_trainer(callbacks=[DropoutCheck()], **settings)
    trainer.fit(module)
    return Journal.of(trainer).findings


@pytest.mark.filterwarnings("ignore:LT303")
@pytest.mark.parametrize("kind", [Hidden, Compiled])
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
def test_said_once(kind: type[TinyModule], settings: dict[str, object]) -> None:
    found = findings(kind(), max_epochs=2, **settings)
    assert [(finding.code, finding.where, finding.count) for finding in found] == [("LT303", "net.2", 1)]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_nets_are_quiet(kind: type[TinyModule]) -> None:
    assert findings(kind()) == []


@pytest.mark.filterwarnings("ignore:LT303")
def test_said_once_over_a_resume() -> None:
    trainer = quiet_trainer(callbacks=[DropoutCheck()])
    trainer.fit(Hidden())
    trainer.save_checkpoint("last.ckpt")
    again = quiet_trainer(callbacks=[DropoutCheck()], max_epochs=2)
    again.fit(Hidden(), ckpt_path="last.ckpt")
    assert [finding.count for finding in Journal.of(again).findings] == [1]
