from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning import GradientFlowCheck, Journal
from lightning_tuning.runtime import Desk
from tests.helpers import CLASSES, MODEL_KINDS, Mlp, TinyModule, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


class Parts(TinyModule):
    """An encoder and a head; ``cut`` says in which batches the encoder is left out."""

    def __init__(self, cut=lambda batch_idx: True, **kwargs):
        super().__init__(lr=0.05, **kwargs)
        self.cut = cut

    def build(self):
        encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(16, CLASSES)})

    def forward(self, x):
        return self.net["head"](self.net["encoder"](x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        features = self.net["encoder"](x)
        if self.cut(batch_idx):
            features = features.detach()
        return F.cross_entropy(self.net["head"](features), y)


def found(module, **trainer):
    trainer = quiet_trainer(callbacks=[GradientFlowCheck()], **trainer)
    trainer.fit(module)
    return [(finding.code, finding.where, finding.step) for finding in Journal.of(trainer).findings]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_models_are_quiet(kind):
    assert found(kind()) == []


def test_it_is_said_after_three_steps():
    assert found(Parts()) == [("LT414", "net.encoder", 2)]


@pytest.mark.parametrize("batches", [1, 2])
def test_a_short_run_hears_it_at_the_end_of_its_epoch(batches):
    assert found(Parts(batches=batches)) == [("LT414", "net.encoder", batches)]


def test_a_part_that_is_trained_in_turn_is_left_alone():
    assert found(Parts(lambda batch_idx: batch_idx % 2 == 0)) == []


def test_parts_of_an_accumulated_step_are_left_alone():
    assert found(Parts(lambda batch_idx: batch_idx % 4 != 3), accumulate_grad_batches=4) == []


def test_parameters_of_no_optimizer_are_left_alone():
    class HeadOnly(Parts):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net["head"].parameters(), lr=0.05)

    assert found(HeadOnly()) == []


def test_manual_optimization_is_left_alone():
    class Manual(Parts):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    assert found(Manual()) == []


def test_a_loss_without_gradient_is_explained_before_it_ends_the_run():
    class Nothing(Parts):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx).detach()

    trainer = quiet_trainer(callbacks=[GradientFlowCheck()])
    with pytest.raises(RuntimeError, match="does not require grad"):
        trainer.fit(Nothing(lambda batch_idx: False))
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT414"]


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_only_the_very_number_that_was_read_is_an_echo(factor):
    class Number(Parts):
        def build(self):
            parts = super().build()
            parts["other"] = nn.Linear(16, 8)
            return parts

        def training_step(self, batch, batch_idx):
            features = self.net["encoder"](batch[0])
            other = F.mse_loss(self.net["other"](features), batch[0])
            return F.cross_entropy(self.net["head"](features), batch[1]) + factor * other.item()

    assert [where for _, where, _ in found(Number())] == (["net.other"] if factor == 1 else [])


def test_mixed_precision_is_no_matter():
    assert found(Parts(), precision="bf16-mixed") == [("LT414", "net.encoder", 2)]


def test_a_resumed_run_says_it_once(tmp_path):
    first = quiet_trainer(callbacks=[GradientFlowCheck()])
    first.fit(Parts())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = quiet_trainer(callbacks=[GradientFlowCheck()], max_epochs=2)
    second.fit(Parts(), ckpt_path=tmp_path / "last.ckpt")
    assert [(finding.code, finding.count) for finding in Journal.of(second).findings] == [("LT414", 1)]


def test_without_a_cut_it_is_over_with_the_first_step() -> None:
    trainer = quiet_trainer(callbacks=[GradientFlowCheck()])
    trainer.fit(Mlp())
    assert Desk.of(trainer)._watchers._by_hook["before_optimizer_step"] == []
