from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning import BatchNormCheck, Finding, Journal, Severity
from lightning_tuning.checks import _statistics
from lightning_tuning.runtime import Desk
from tests.cases.lt307_batchnorm_small_batch import Leftover
from tests.cases.lt323_batchnorm_statistics_off import Domains, Norm, PutBack
from tests.contracts.test_bit_identity import assert_identical, everything
from tests.helpers import CLASSES, MODEL_KINDS, BNConvNet, Mlp, TinyModule, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:LT3")


def run(module: pl.LightningModule, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[BatchNormCheck()], **settings)
    trainer.fit(module)
    return trainer


def findings(module: pl.LightningModule, **settings: Any) -> list[Finding]:
    return Journal.of(run(module, **settings)).findings


def codes(module: pl.LightningModule, **settings: Any) -> list[str]:
    return [finding.code for finding in findings(module, **settings)]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches that were run aside."""
    seen: list[int] = []
    replay = _statistics.replay

    def counted(trainer: Any, module: Any, batch: Any, index: int, **settings: Any) -> Any:
        seen.append(index)
        return replay(trainer, module, batch, index, **settings)

    monkeypatch.setattr(_statistics, "replay", counted)
    return seen


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_nets_are_quiet(kind: type[TinyModule]) -> None:
    assert findings(kind(batches=8)) == []


def test_two_steps_are_run_aside_once(replays: list[int]) -> None:
    assert findings(BNConvNet(batches=60), max_epochs=2) == []
    assert replays == [57, 58, 58, 58]


def test_a_short_epoch_waits_for_the_next(replays: list[int]) -> None:
    assert findings(BNConvNet(batches=30), max_epochs=3) == []
    assert replays == [27, 28, 28, 28]


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 4}], ids=str)
def test_looking_changes_nothing(settings: dict[str, Any], replays: list[int]) -> None:
    ends = []
    for callbacks in ([], [BatchNormCheck()]):
        pl.seed_everything(0, verbose=False)
        module = BNConvNet(batches=60)
        trainer = quiet_trainer(callbacks=callbacks, **settings)
        trainer.fit(module)
        ends.append(everything(trainer, module))
    assert replays
    assert_identical(*ends)


def test_data_that_differ_from_batch_to_batch() -> None:
    (found,) = findings(Domains(mixed=False))
    assert (found.code, found.where, found.severity) == ("LT323", "net.1", Severity.WARNING)
    assert found.evidence["eval_loss"] > 1.5 * found.evidence["train_loss"]


class Lagging(BNConvNet):
    """Steps so large that the running statistics cannot keep up."""

    def __init__(self) -> None:
        super().__init__(0.5, batches=60)


def test_weights_that_move_fast_are_not_blamed_on_the_data(replays: list[int]) -> None:
    assert "LT323" not in codes(Lagging())
    assert replays


class Functional(nn.Module):
    """Statistics in buffers of its own; every batch is of another domain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 16, bias=False), nn.Linear(16, CLASSES)
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("var", torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.batch_norm(self.first(x), self.mean, self.var, training=self.training).relu())


class FunctionalDomains(Domains):
    def build(self) -> nn.Module:
        return Functional()


def test_functional_batch_norms_are_seen() -> None:
    assert codes(FunctionalDomains(mixed=False)) == ["LT323"]
    assert codes(FunctionalDomains(mixed=True)) == []


class PutBackAfter(PutBack):
    """Restores the buffers at the end of each batch instead."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if not hasattr(self, "kept"):
            self.kept = [buffer.clone() for buffer in self.net[1].buffers()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for buffer, kept in zip(self.net[1].buffers(), self.kept, strict=True):
                buffer.copy_(kept)


@pytest.mark.parametrize("kind", [PutBack, PutBackAfter])
def test_statistics_put_back(kind: type[TinyModule]) -> None:
    assert codes(kind(batches=24)) == ["LT323"]
    assert codes(kind(batches=10)) == [], "a few batches say nothing"
    assert codes(kind(batches=12), max_epochs=2) == ["LT323"]


class Manual(Domains):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()


class Drawing(Domains):
    """Holds an iterator, which a repeated step would use up."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.noise: Iterator[float] = iter(lambda: 0.0, 1.0)


class Environment:
    def reset(self) -> None: ...

    def step(self) -> None: ...


class Playing(Domains):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.world = Environment()


@pytest.mark.parametrize("kind", [Manual, Drawing, Playing])
def test_no_step_is_repeated_where_that_would_harm(kind: type[TinyModule], replays: list[int]) -> None:
    assert codes(kind(mixed=False)) == []
    assert replays == []


def test_nets_without_batch_norm_cost_nothing(replays: list[int]) -> None:
    check = BatchNormCheck()
    trainer = quiet_trainer(callbacks=[check])
    module = Mlp(batches=60)
    trainer.fit(module)
    assert replays == []
    assert not any(Desk.of(trainer)._watchers._by_hook.values())


def test_nothing_is_left_after_the_decision() -> None:
    trainer = run(BNConvNet(batches=60), max_epochs=2)
    assert not any(Desk.of(trainer)._watchers._by_hook.values())
    (check,) = (callback for callback in trainer.callbacks if isinstance(callback, BatchNormCheck))
    assert check._watch is None


@pytest.mark.parametrize("settings", [{"limit_train_batches": 4}, {"max_steps": 3}, {"overfit_batches": 2}], ids=str)
@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning", "ignore:.*overfit.*:UserWarning")
def test_a_last_batch_that_is_never_reached(settings: dict[str, Any]) -> None:
    assert codes(Leftover(65), **settings) == []


def test_a_last_batch_of_one_is_known_before_it_comes() -> None:
    trainer = quiet_trainer(callbacks=[BatchNormCheck()])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        trainer.fit(Leftover(65))
    (found,) = Journal.of(trainer).findings
    assert (found.code, found.severity, found.step) == ("LT307", Severity.ERROR, 0)


def test_small_batches_on_purpose() -> None:
    module = Norm()
    module.batch_size = 4
    assert codes(module) == ["LT307"]
    assert codes(module, overfit_batches=4) == []


def test_a_resumed_run_says_it_once() -> None:
    trainer = run(Norm(0.95))
    trainer.save_checkpoint("last.ckpt")
    again = quiet_trainer(callbacks=[BatchNormCheck()], max_epochs=2)
    again.fit(Norm(0.95), ckpt_path="last.ckpt")
    assert [(finding.code, finding.count) for finding in Journal.of(again).findings] == [("LT313", 1)]
