"""Preflight on real fits: what it says of healthy and of sick nets, and that it keeps quiet where it cannot judge."""

from __future__ import annotations

import json
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tuning import Journal, Preflight, Severity, TerminalReporter, TuningError, TuningSuite
from tests.cases.lt110_input_ignored import Masked
from tests.cases.lt111_sample_mixing import Attends
from tests.helpers import CLASSIFIERS, BNConvNet, DropoutNet, ManualGAN, Mlp, TinyModule, blobs, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")

OUTCOMES = ("passed", "failed", "undecided", "not applicable")


def preflight(model: pl.LightningModule, *callbacks: pl.Callback, **arguments: Any) -> tuple[Preflight, pl.Trainer]:
    """Fly, and train one batch."""
    tried = Preflight(**arguments)
    trainer = quiet_trainer(callbacks=[tried, *callbacks], limit_train_batches=1)
    trainer.fit(model)
    return tried, trainer


def outcomes(tried: Preflight) -> dict[str, str]:
    return {verdict.name: verdict.outcome for verdict in tried.verdicts}


def told(tried: Preflight, name: str) -> str:
    (sentence,) = (verdict.sentence for verdict in tried.verdicts if verdict.name == name)
    return sentence


def heard(trainer: pl.Trainer) -> list[str]:
    return [finding.code for finding in Journal.of(trainer).findings]


@pytest.mark.parametrize("kind", CLASSIFIERS, ids=lambda kind: kind.__name__)
def test_a_healthy_net_passes(kind: type[TinyModule]) -> None:
    tried, trainer = preflight(kind())
    assert outcomes(tried) == {
        "initial loss": "passed",
        "loss scaling": "passed",
        "samples kept apart": "passed",
        "no look ahead": "not applicable",
        "no sample in both sets": "passed",
        "overfit one batch": "passed",
        "inputs beat zeros": "passed",
    }
    assert heard(trainer) == []
    assert tried.suspects == []


def test_the_suite_and_preflight_together_are_quiet() -> None:
    _, trainer = preflight(Mlp(), TuningSuite())
    assert heard(trainer) == []


class StuckHead(Mlp):
    """Gradients of the body are cut, and the head is all but frozen by the clamp on the logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).clamp(-1e-3, 1e-3)


class Contradictory(Mlp):
    """Four kinds of samples, with labels that are a matter of chance."""

    def train_dataloader(self) -> DataLoader[Any]:
        draw = torch.Generator().manual_seed(0)
        kinds, labels = torch.randint(4, (64,), generator=draw), torch.randint(3, (64,), generator=draw)
        return DataLoader(TensorDataset(2 * torch.eye(8)[kinds], labels), batch_size=32)


def test_a_batch_that_contradicts_itself_cannot_be_fitted() -> None:
    tried, _ = preflight(Contradictory(), iterations=60)
    assert outcomes(tried)["overfit one batch"] == "not applicable"
    assert told(tried, "overfit one batch").endswith("samples of the same inputs have different targets")


def test_a_net_that_cannot_fit_a_batch_fails() -> None:
    tried, _ = preflight(StuckHead(), iterations=60)
    assert outcomes(tried)["overfit one batch"] == "failed"
    (verdict,) = (verdict for verdict in tried.verdicts if verdict.name == "overfit one batch")
    assert verdict.measured is not None
    assert verdict.measured > verdict.threshold == 0.1
    assert "in 59 iterations" in verdict.sentence


def test_on_failure_the_other_findings_are_suspects() -> None:
    class HeadLeftOut(StuckHead):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[:4].parameters(), lr=self.lr, momentum=0.9)

    tried, trainer = preflight(HeadLeftOut(), TuningSuite(), iterations=40)
    assert "failed" in outcomes(tried).values()
    assert "LT401" in [finding.code for finding in tried.suspects]
    assert {finding.code for finding in tried.suspects} <= set(heard(trainer))


def test_on_failure_raise_ends_the_run() -> None:
    with pytest.raises(TuningError, match="overfit one batch"):
        preflight(StuckHead(), iterations=40, on_failure="raise")
    preflight(Mlp(), on_failure="raise")


def test_then_stop_ends_a_run_that_goes_well() -> None:
    for then_stop, steps in ((True, 1), (3, 3), (False, 8)):
        trainer = quiet_trainer(callbacks=[Preflight(then_stop=then_stop)])
        trainer.fit(Mlp())
        assert trainer.global_step == steps


def test_without_time_it_is_undecided() -> None:
    tried, trainer = preflight(Mlp(), max_seconds=1e-9)
    assert outcomes(tried)["overfit one batch"] == "undecided"
    assert "max_seconds" in told(tried, "overfit one batch")
    assert heard(trainer) == []


def test_too_few_iterations_are_undecided() -> None:
    tried, _ = preflight(Mlp(), iterations=5)
    assert outcomes(tried)["overfit one batch"] == "undecided"


def test_dropout_is_off_however_it_is_called() -> None:
    class Functional(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(self.net(x), 0.99)
            return torch.dropout(x, 0.99, True)

    tried, _ = preflight(Functional())
    assert outcomes(tried)["overfit one batch"] == "passed"


def test_a_manual_step_is_not_tried() -> None:
    tried, trainer = preflight(ManualGAN())
    assert tried.verdicts == []
    assert any("no preflight" in note for note in Journal.of(trainer).notes)


class Denoiser(Mlp):
    """Its targets are noise of its own, as a diffusion model's."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noise = torch.randn_like(batch[0])
        return F.mse_loss(self(batch[0] + noise), noise)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Smoothed(Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.3)


class Penalised(Mlp):
    """Most of its loss is no comparison."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        penalty = sum(p.square().sum() + 1 for p in self.parameters())
        return F.cross_entropy(self(batch[0]), batch[1]) + 10 * penalty


class TinyRegression(Mlp):
    """A line through 64 noisy points: nobody can learn them by heart."""

    def __init__(self) -> None:
        super().__init__(batch_size=64, batches=2)

    def build(self) -> nn.Module:
        return nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        y = torch.sin(1e3 * batch[0].sum(1))
        return F.mse_loss(self(batch[0])[:, 0], y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("kind", [Denoiser, Smoothed, Penalised, TinyRegression], ids=lambda kind: kind.__name__)
def test_losses_with_a_floor_are_not_judged(kind: type[TinyModule]) -> None:
    tried, trainer = preflight(kind(), iterations=60)
    assert outcomes(tried)["overfit one batch"] != "failed"
    assert outcomes(tried)["inputs beat zeros"] == "not applicable"
    assert [f for f in Journal.of(trainer).findings if f.severity >= Severity.WARNING] == []


def test_a_summed_loss_is_seen_by_effect() -> None:
    class Summed(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")

    tried, trainer = preflight(Summed())
    assert outcomes(tried)["loss scaling"] == "failed"
    assert heard(trainer) == ["LT410"]


def test_an_initial_loss_that_is_off_is_seen() -> None:
    class Loud(Mlp):
        def build(self) -> nn.Module:
            net = super().build()
            nn.init.normal_(net[4].weight, std=10.0)
            return net

    tried, _ = preflight(Loud())
    assert outcomes(tried)["initial loss"] == "failed"


def test_bare_batches_do_not_break_the_run() -> None:
    class Named(Mlp):
        """Batches are dicts that hold text as well, and a step that writes into them."""

        def train_dataloader(self) -> DataLoader[Any]:
            x, y = blobs(64).tensors
            return DataLoader([{"x": a, "y": b, "name": "a"} for a, b in zip(x, y, strict=True)], batch_size=16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            batch["x"].mul_(0.5)
            return F.cross_entropy(self(batch["x"]), batch["y"])

    tried, trainer = preflight(Named())
    assert outcomes(tried)["overfit one batch"] == "passed"
    assert outcomes(tried)["samples kept apart"] == "passed"
    assert heard(trainer) == []


def test_a_resumed_run_has_flown_already(tmp_path: Any) -> None:
    _, trainer = preflight(Mlp())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = Preflight()
    quiet_trainer(callbacks=[again], max_epochs=2).fit(Mlp(), ckpt_path=tmp_path / "one.ckpt")
    assert again.verdicts == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_under_other_precisions(precision: str) -> None:
    tried = Preflight()
    quiet_trainer(callbacks=[tried], precision=precision, limit_train_batches=1).fit(BNConvNet())
    assert outcomes(tried)["overfit one batch"] == "passed"
    assert "failed" not in outcomes(tried).values()


def test_compiled_parts_are_run_eagerly() -> None:
    model = DropoutNet()
    model.net = torch.compile(model.net, backend="eager")
    tried, _ = preflight(model)
    assert outcomes(tried)["overfit one batch"] == "passed"


def test_the_table_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(TerminalReporter, "verdicts", lambda self, verdicts, suspects: told.append(list(verdicts)))
    trainer = quiet_trainer(callbacks=[Preflight()], limit_train_batches=2)
    trainer.fit(Mlp())
    assert [len(verdicts) for verdicts in told] == [7]


def test_the_table_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    preflight(Masked(outliers=True), iterations=40)
    printed = capsys.readouterr().out
    assert "preflight:" in printed
    assert "inputs beat zeros LT110" in printed
    assert "failed" in printed


def test_verdicts_are_json() -> None:
    tried, _ = preflight(Attends(batch_first=False))
    verdicts = json.loads(json.dumps([verdict.to_dict() for verdict in tried.verdicts]))
    assert {verdict["outcome"] for verdict in verdicts} == {"passed", "failed", "not applicable"} < set(OUTCOMES)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"iterations": 0}, "iterations"),
        ({"target": 1.0}, "target"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"samples": 0}, "samples"),
        ({"on_failure": "stop"}, "on_failure"),
        ({"then_stop": -1}, "then_stop"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        Preflight(**arguments)


class Constant(Mlp):
    def train_dataloader(self) -> DataLoader[Any]:
        x, y = blobs(64).tensors
        return DataLoader(TensorDataset(torch.ones_like(x), y), batch_size=16)


def test_samples_that_do_not_differ_are_another_rules_matter() -> None:
    tried, trainer = preflight(Constant(), iterations=30)
    assert outcomes(tried)["inputs beat zeros"] == "not applicable"
    assert "LT110" not in heard(trainer)


def test_an_error_of_the_step_is_the_users() -> None:
    class Broken(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise IndexError("theirs")

    trainer = quiet_trainer(callbacks=[Preflight(iterations=1)])
    with pytest.raises(IndexError, match="theirs"):
        trainer.fit(Broken())
    assert Journal.of(trainer).notes == ["no preflight: the step itself fails (IndexError: theirs)."]
