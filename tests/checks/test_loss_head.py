from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning import Journal, LossHeadCheck
from tests.helpers import CLASSES, MODEL_KINDS, Mlp, TinyModule, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


def codes(trainer):
    return [finding.code for finding in Journal.of(trainer).findings]


def fitted(module, **trainer):
    trainer = quiet_trainer(callbacks=[LossHeadCheck()], **trainer)
    trainer.fit(module)
    return trainer


class Probabilities(Mlp):
    def forward(self, x):
        return self.net(x).softmax(1)


class RawNll(Mlp):
    def training_step(self, batch, batch_idx):
        return F.nll_loss(self(batch[0]), batch[1])


class RawBinary(Mlp):
    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy(self(batch[0]), F.one_hot(batch[1], CLASSES).float())


class Summed(Mlp):
    def __init__(self):
        super().__init__(lr=0.002)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")


class Stacked(TinyModule):
    def build(self):
        return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES))


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_models_are_quiet(kind):
    assert codes(fitted(kind())) == []


def test_it_is_said_once_in_two_fits_of_a_trainer():
    trainer = quiet_trainer(callbacks=[LossHeadCheck()])
    trainer.fit(Probabilities())
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit(Probabilities())
    assert codes(trainer) == ["LT314"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_raw_scores_are_found_by_value_in_any_precision(precision):
    assert codes(fitted(RawNll(lr=0.001), precision=precision)) == ["LT315"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_log_probabilities_of_any_precision_are_fine(precision):
    class Nll(Mlp):
        def training_step(self, batch, batch_idx):
            return F.nll_loss(self(batch[0]).log_softmax(1), batch[1])

    assert codes(fitted(Nll(), precision=precision)) == []


def test_a_loss_that_refuses_its_input_is_explained():
    trainer = quiet_trainer(callbacks=[LossHeadCheck()])
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        trainer.fit(RawBinary())
    assert codes(trainer) == ["LT315"]


def test_the_findings_of_an_ended_run_do_not_come_back():
    check = LossHeadCheck()
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        quiet_trainer(callbacks=[check]).fit(RawBinary())
    trainer = quiet_trainer(callbacks=[check])
    trainer.fit(Mlp())
    assert codes(trainer) == []


def test_probabilities_at_the_very_ends_are_legal():
    class Sure(Mlp):
        def training_step(self, batch, batch_idx):
            output = (40 * self(batch[0])).sigmoid()
            return F.binary_cross_entropy(output, F.one_hot(batch[1], CLASSES).float())

    assert codes(fitted(Sure(lr=1e-5))) == []


def test_a_sum_is_found_although_lightning_divides_by_the_accumulated_batches():
    assert codes(fitted(Summed())) == ["LT410"]


def test_a_symptom_is_an_info_until_the_run_goes_wrong():
    (finding,) = Journal.of(fitted(Stacked())).findings
    assert (finding.code, str(finding.severity), finding.count) == ("LT318", "info", 3)


def test_a_symptom_is_a_warning_in_a_run_that_learns_nothing():
    class Stuck(Stacked):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-12)

    trainer = fitted(Stuck(batches=260), limit_val_batches=0)
    (finding,) = [finding for finding in Journal.of(trainer).findings if finding.code == "LT318"]
    assert str(finding.severity) == "warning"
