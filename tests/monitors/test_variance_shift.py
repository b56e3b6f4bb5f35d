"""``VarianceShiftMonitor``: what it measures, when, and whom it leaves alone."""

from __future__ import annotations

import warnings
from collections import deque
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tuning import Finding, Journal, TuningSuite, VarianceShiftMonitor
from lightning_tuning.monitors import _shift_trial
from lightning_tuning.monitors._shift_trial import ShiftTrial
from lightning_tuning.runtime import Desk
from tests.cases.lt302_variance_shift import Dropped
from tests.cases.lt323_batchnorm_statistics_off import Domains
from tests.contracts.test_bit_identity import assert_identical, everything
from tests.helpers import CLASSES, BNConvNet, Mlp, TinyModule, quiet_trainer
from tests.ranks import gloo, on_two_ranks


def run(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks or [VarianceShiftMonitor()]), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    return trainer


def found(trainer: pl.Trainer) -> list[Finding]:
    return [finding for finding in Journal.of(trainer).findings if finding.code == "LT302"]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps, of the run, at which batches were run aside."""
    seen: list[int] = []
    replay = _shift_trial.replay

    def counted(trainer: Any, *arguments: Any, **settings: Any) -> Any:
        seen.append(trainer.global_step)
        return replay(trainer, *arguments, **settings)

    monkeypatch.setattr(_shift_trial, "replay", counted)
    return seen


@pytest.mark.parametrize(("mean", "spread", "p"), [(0.0, 1.0, 0.5), (1.0, 1.0, 0.5), (0.5, 2.0, 0.2)])
def test_the_ratio_is_that_of_the_paper(mean: float, spread: float, p: float) -> None:
    class Straight(TinyModule):
        """Dropout right before the batch norm: the variance is (s2 + m2) / (1 - p) - m2, of s2."""

        def build(self) -> nn.Module:
            return nn.Sequential(nn.Dropout(p), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))

    class Ask(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            batches = [(mean + spread * torch.randn(4096, 8), torch.zeros(4096, dtype=torch.long)) for _ in range(8)]
            held = deque((batch, i) for i, batch in enumerate(batches))
            self.ratios = ShiftTrial(trainer, pl_module, held, deque()).ratios({"net.1"})

    ask = Ask()
    run(Straight(), ask)
    expected = ((spread**2 + mean**2) / (1 - p) - mean**2) / spread**2
    assert ask.ratios == {"net.1": pytest.approx(expected, rel=0.03)}


def test_a_narrow_net_is_told_where_and_by_how_much() -> None:
    (finding,) = found(run(Dropped(), max_epochs=4))
    assert finding.where == "net.2"
    assert finding.evidence["ratio"] > 1.3
    assert finding.evidence["loss_without_dropout_statistics"] < 0.95 * finding.evidence["loss"]
    assert finding.step == 240
    assert "update_bn" in finding.remedy


def test_the_loss_of_evaluation_is_what_was_measured() -> None:
    """The remedy is applied for real: the validation loss falls as the finding says."""
    module = Dropped()
    trainer = run(module, max_epochs=4)
    (finding,) = found(trainer)
    before = trainer.validate(module, verbose=False)[0]["val_loss"]
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    inputs = DataLoader([x for x, _ in module.train_dataloader().dataset], batch_size=32)
    torch.optim.swa_utils.update_bn(inputs, module)
    after = quiet_trainer().validate(module, verbose=False)[0]["val_loss"]
    assert after < 0.95 * before
    assert finding.evidence["loss"] == pytest.approx(before, rel=0.25)


@pytest.mark.parametrize(
    "settings",
    [
        {"everywhere": False},
        {"close": False, "width": 512, "batches": 50},
        {"close": False, "p": 0.1},
    ],
    ids=str,
)
def test_who_does_not_suffer_is_left_alone(settings: dict[str, Any]) -> None:
    assert found(run(Dropped(**settings), max_epochs=2)) == []


def test_statistics_of_other_data_are_not_blamed_on_dropout() -> None:
    """LT323 is said of these, and LT302 is not, though a dropout feeds the batch norm."""

    class DroppedDomains(Domains):
        def build(self) -> nn.Module:
            norm = nn.BatchNorm1d(16)
            return nn.Sequential(
                nn.Dropout(0.005), nn.Linear(8, 16, bias=False), norm, nn.ReLU(), nn.Linear(16, CLASSES)
            )

    trainer = run(DroppedDomains(mixed=False), TuningSuite(select=["LT302", "LT323"]))
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT323"]


def test_where_no_dropout_feeds_a_batch_norm_nothing_is_kept_or_run(replays: list[int]) -> None:
    for module in (BNConvNet(batches=60), Mlp(batches=60), Dropped(everywhere=False)):
        monitor = VarianceShiftMonitor()
        trainer = run(module, monitor)
        assert not monitor._training
        assert not Desk.of(trainer)._watchers.hooks
    assert replays == []


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 1, "batches": 49}, []),
        ({"max_epochs": 1, "batches": 60}, [60]),
        ({"max_epochs": 2, "batches": 60}, [60, 120]),
        ({"max_epochs": 8, "batches": 60}, [60, 240]),
        ({"max_epochs": 5, "batches": 12}, [60]),
        ({"max_epochs": 6, "batches": 12}, [60, 72]),
    ],
    ids=str,
)
def test_it_looks_twice_at_most(replays: list[int], settings: dict[str, Any], steps: list[int]) -> None:
    epochs = settings.pop("max_epochs")
    run(Dropped(batch_size=8, **settings), max_epochs=epochs)
    assert sorted(set(replays)) == steps
    assert all(replays.count(step) in (8, 32) for step in steps)


def test_what_only_the_first_look_saw_is_said_when_there_is_no_other() -> None:
    assert found(run(Dropped(), max_epochs=1))[0].step == 60


def test_without_validation_other_training_batches_are_judged() -> None:
    assert found(run(Dropped(), max_epochs=4, limit_val_batches=0))


def test_validation_batches_of_another_shape_are_not_asked() -> None:
    class Other(Dropped):
        def val_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(torch.randn(64, 8)), batch_size=32)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    assert found(run(Other(), max_epochs=4))


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}], ids=str)
def test_the_run_is_the_same_bit_for_bit(settings: dict[str, Any], replays: list[int]) -> None:
    ends = []
    for callbacks in ([pl.Callback()], [VarianceShiftMonitor()]):
        module = Dropped()
        ends.append(everything(run(module, *callbacks, max_epochs=2, **settings), module))
    assert replays
    assert_identical(*ends)


class Functional(Dropped):
    """Dropout by a function, and a batch norm without a module of its own."""

    def build(self) -> nn.Module:
        net = nn.Module()
        net.layers = nn.ModuleList([nn.Linear(8 if i == 0 else 16, 16, bias=False) for i in range(4)])
        net.head = nn.Linear(16, CLASSES)
        for i in range(4):
            net.register_buffer(f"mean{i}", torch.zeros(16))
            net.register_buffer(f"var{i}", torch.ones(16))
        return net

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        for i, layer in enumerate(net.layers):
            mean, var = getattr(net, f"mean{i}"), getattr(net, f"var{i}")
            x = F.batch_norm(F.dropout(F.relu(layer(x)), 0.5, self.training), mean, var, training=self.training)
        return net.head(x)


def test_functional_layers_are_seen() -> None:
    (finding,) = found(run(Functional(), max_epochs=4))
    assert "test_variance_shift.py" in (finding.source_line or "")


def test_a_manual_loop_is_left_out(replays: list[int]) -> None:
    class Manual(Dropped):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()

    run(Manual(), max_epochs=2)
    assert replays == []


def test_a_resumed_run_goes_on_counting(tmp_path: Any, replays: list[int]) -> None:
    trainer = run(Dropped(), max_epochs=2)
    monitor = trainer.callbacks[0]
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    state = torch.load(tmp_path / "two.ckpt", weights_only=True)["lightning_tuning"]["VarianceShiftMonitor"]
    assert state == monitor.tuning_state()
    assert (state["seen"], state["looks"]) == (120, 2)
    del replays[:]
    resumed = quiet_trainer(callbacks=[VarianceShiftMonitor()], max_epochs=5)
    resumed.fit(Dropped(), ckpt_path=tmp_path / "two.ckpt")
    assert replays == []


def of_a_rank(rank: int) -> tuple[int, list[str], list[str]]:
    trainer = run(Dropped(seed=1), strategy=gloo(), devices=2, max_epochs=4)
    journal = Journal.of(trainer)
    return trainer.global_step, [finding.code for finding in journal.findings], journal.notes


def test_two_ranks_end_the_same() -> None:
    one, other = on_two_ranks(of_a_rank)
    assert one[:2] == other[:2]
    assert one[2] == []


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None])
def test_bad_argument(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`batches` must be .* got"):
        VarianceShiftMonitor(value)
