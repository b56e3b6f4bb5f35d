from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_tuning import Journal, LearningCurveMonitor, LossSpikeGuard, Progress, TerminalReporter, TuningSuite
from lightning_tuning.rules._suspects import diagnosis_of
from lightning_tuning.runtime import CHECKPOINT_KEY
from tests.cases.lt801_not_learning import Crawling, CutOff
from tests.cases.lt802_diverging_loss import Growing
from tests.cases.lt805_predicting_the_prior import Dead
from tests.helpers import ManualGAN, Mlp, TinyModule, quiet_trainer


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    return trainer


def codes(trainer: pl.Trainer) -> list[str]:
    return [finding.code for finding in Journal.of(trainer).findings]


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, None])
def test_a_bad_argument_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="`every_n_steps` must be a whole number of at least 1"):
        LearningCurveMonitor(wrong)


def test_a_run_that_is_too_short_is_left_alone() -> None:
    trainer = fit(Crawling(1e-9), LearningCurveMonitor(), max_epochs=4)
    assert codes(trainer) == []


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_loss_is_held_against_the_entropy_of_the_labels(accumulate: int) -> None:
    trainer = fit(Crawling(1e-9), LearningCurveMonitor(), max_epochs=8, accumulate_grad_batches=accumulate)
    (finding,) = Journal.of(trainer).findings
    assert finding.code == "LT801"
    assert finding.evidence["baseline"] == pytest.approx(1.09, abs=0.03)
    assert "the entropy of the labels" in finding.message


def test_the_summary_names_the_likely_causes() -> None:
    console = Console(file=io.StringIO(), width=200)
    suite, trainer = TuningSuite(), quiet_trainer(max_epochs=8)
    trainer.callbacks.insert(0, suite)
    Journal.of(trainer).reporters.append(TerminalReporter(console))
    pl.seed_everything(0, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(CutOff(True))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "the run did not learn" in text
    assert "1. LT414 detached-graph" in text
    (finding,) = (finding for finding in suite.findings if finding.code == "LT801")
    assert str(finding.evidence["suspects"]).startswith("LT414")
    diagnosis = Journal.of(trainer).diagnosis
    assert diagnosis is not None
    assert diagnosis.suspects[0].finding.code == "LT414"


def test_a_healthy_run_has_no_diagnosis() -> None:
    trainer = fit(Crawling(1e-2), LearningCurveMonitor(), max_epochs=8)
    assert codes(trainer) == []
    assert Journal.of(trainer).diagnosis is None
    assert diagnosis_of([], Progress.of(trainer).state, 320) is None


def test_looking_aside_changes_nothing() -> None:
    with_monitor, bare = Dead(-20.0), Dead(-20.0)
    trainer = fit(with_monitor, LearningCurveMonitor(), max_epochs=7)
    assert "LT805" in codes(trainer)
    fit(bare, max_epochs=7)
    state = with_monitor.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in bare.state_dict().items())


def test_the_guard_speaks_where_it_is_attached() -> None:
    alone, guarded = (
        fit(Growing(3000.0), LearningCurveMonitor()),
        fit(Growing(3000.0), LearningCurveMonitor(), LossSpikeGuard("warn")),
    )
    assert "LT802" in codes(alone)
    counts = [[f.count for f in Journal.of(t).findings if f.code == "LT802"] for t in (alone, guarded)]
    assert counts == [[1], [1]]


class QLearner(TinyModule):
    """Temporal differences: the targets are the net's own, or those of a copy that follows ``every`` so many steps."""

    def __init__(self, every: int | None, **settings: Any) -> None:
        super().__init__(lr=0.01, batches=60, **settings)
        self.every = every
        self.copy = self.build().requires_grad_(False)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, action = batch
        with torch.no_grad():
            maker = self.net if self.every == 0 else self.copy
            target = 1 + 0.9 * maker(x.flip(0)).max(1).values
        return F.smooth_l1_loss(self.net(x).gather(1, action[:, None])[:, 0], target)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.every and batch_idx == self.every:
            self.copy.load_state_dict(self.net.state_dict())


@pytest.mark.parametrize(("every", "mute"), [(0, True), (30, True), (None, False)])
def test_targets_that_move_with_the_net_tell_nothing_and_a_teacher_does(every: int | None, mute: bool) -> None:
    trainer = fit(QLearner(every), LearningCurveMonitor())
    assert Progress.of(trainer).mute is mute
    notes = [note for note in Journal.of(trainer).notes if "targets are made by weights that move" in note]
    assert len(notes) == mute
    assert codes(trainer) == []


class Policy(Mlp):
    """REINFORCE."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        log_probabilities = self(x).log_softmax(-1)
        answers = torch.multinomial(log_probabilities.detach().exp(), 1)[:, 0]
        return -((answers == y).float() * log_probabilities.gather(1, answers[:, None])[:, 0]).mean()


def test_actions_drawn_from_the_net_tell_nothing() -> None:
    trainer = fit(Policy(), LearningCurveMonitor())
    assert Progress.of(trainer).mute
    assert "actions drawn" in Journal.of(trainer).notes[0]


class Played(IterableDataset[Any]):
    """Made by the net."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(6):
            x = torch.randn(16, 8, generator=generator)
            yield x, self.net(x).argmax(-1).detach()


class Player(Mlp):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Played(self.net), batch_size=None)


def test_data_made_by_the_net_tell_nothing() -> None:
    assert Progress.of(fit(Player(), LearningCurveMonitor())).mute


def test_a_gan_is_left_alone() -> None:
    trainer = fit(ManualGAN(batches=210), LearningCurveMonitor())
    assert codes(trainer) == []
    assert Journal.of(trainer).notes == []


def test_its_state_goes_with_the_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "half.ckpt"
    fit(Crawling(1e-9), LearningCurveMonitor(), max_epochs=4).save_checkpoint(path)
    kept = torch.load(path, weights_only=True)[CHECKPOINT_KEY]["LearningCurveMonitor"]
    assert kept["judges"]["curve"]["batches"] == 160
    pl.seed_everything(0, verbose=False)
    resumed = quiet_trainer(callbacks=[LearningCurveMonitor()], max_epochs=8)
    with pytest.warns(UserWarning, match="LT801"):
        resumed.fit(Crawling(1e-9), ckpt_path=path)
    (finding,) = Journal.of(resumed).findings
    assert finding.evidence["batches"] in (250, 300, 320)
