from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tuning import Finding, Journal, Severity, StabilityProbe, TuningWarning
from lightning_tuning.trace.stability import Stability, stability_of
from tests.contracts.test_bit_identity import CompiledDropoutNet, assert_identical
from tests.contracts.test_bit_identity import fit as fit_for_bits
from tests.helpers import CLASSIFIERS, MODEL_KINDS, BNConvNet, DropoutNet, ManualGAN, Mlp, TinyModule, quiet_trainer
from tests.ranks import gloo, on_two_ranks


class Line(pl.LightningModule):
    """A regression of ``y = w x`` on inputs of unit size: the sharpness is 2 wherever it is."""

    def __init__(self, lr: float = 0.1, *, batches: int = 40, make: Any = torch.optim.SGD) -> None:
        super().__init__()
        self.lr, self.batches, self.make = lr, batches, make
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.net.weight, 0.5)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        x = torch.tensor([[1.0], [-1.0]]).repeat(2 * self.batches, 1)
        return DataLoader(TensorDataset(x, 0.3 * x), batch_size=4)


class Watch(pl.Callback):
    """Remembers when something was measured, and what."""

    def __init__(self, probe: StabilityProbe) -> None:
        self.probe = probe
        self.steps: list[int] = []
        self.found: list[Stability] = []

    def on_before_zero_grad(self, trainer: pl.Trainer, *_: Any) -> None:
        last = self.probe.stability
        if last is not None and not (self.found and self.found[-1] is last):
            self.found.append(last)
            self.steps.append(trainer.global_step)


def fit(model: pl.LightningModule, probe: StabilityProbe, **settings: Any) -> tuple[pl.Trainer, Watch]:
    watch = Watch(probe)
    trainer = quiet_trainer(callbacks=[probe, watch, *settings.pop("callbacks", ())], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        trainer.fit(model)
    return trainer, watch


def findings(trainer: pl.Trainer) -> list[Finding]:
    return Journal.of(trainer).findings


def test_it_measures_when_asked() -> None:
    _, watch = fit(Line(), StabilityProbe(every_n_steps=15))
    assert watch.steps == [0, 15, 30]
    assert [found.sharpness for found in watch.found] == pytest.approx([2.0] * 3)
    assert [found.bound for found in watch.found] == pytest.approx([20.0] * 3)
    assert fit(Line(), StabilityProbe(every_n_steps=15, at_start=False))[1].steps == [15, 30]
    assert fit(Line(), StabilityProbe(every_n_steps=None))[1].steps == [0]


def test_adaptive_optimizers_are_measured_after_their_first_hundred_steps() -> None:
    trainer, watch = fit(Line(1e-3, batches=130, make=torch.optim.Adam), StabilityProbe(every_n_steps=None))
    assert watch.steps == [100]
    assert watch.found[0].formula == "2 (1 + 0.9) / (1 - 0.9) / lr"
    assert findings(trainer) == []
    assert Journal.of(trainer).notes == []


def test_a_warm_up_from_zero_is_waited_for() -> None:
    class WarmsUp(Line):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, max(0.0, (step - 3) / 10)))
            return [optimizer], [{"scheduler": ramp, "interval": "step"}]

    _, watch = fit(WarmsUp(), StabilityProbe(every_n_steps=None))
    assert watch.steps == [4]
    assert watch.found[0].lr == pytest.approx(0.01)


@pytest.mark.parametrize(("lr", "step", "count"), [(0.9, None, 0), (1.4, None, 0), (1.6, 0, 10), (8.0, 0, 12)])
def test_a_rate_above(lr: float, step: int | None, count: int) -> None:
    """Stable below 1; reported from 1.5 on, and above 6 the first measurement counts for three."""
    trainer, _ = fit(Line(lr), StabilityProbe(every_n_steps=4), gradient_clip_val=0.5)
    found = findings(trainer)
    assert [(f.code, f.where, f.step) for f in found] == ([] if step is None else [("LT511", "SGD group 0", step)])
    if step is not None:
        assert found[0].evidence["stable_lr"] == pytest.approx(1.0)
        assert found[0].count == count
        assert "`lr=1`" in found[0].remedy


def test_it_is_a_warning_where_nothing_is_learned() -> None:
    trainer = quiet_trainer(callbacks=[StabilityProbe(every_n_steps=10)], gradient_clip_val=0.5)
    with pytest.warns(TuningWarning, match=r"lr=3 is 3 x the largest stable one, 1: the sharpness"):
        trainer.fit(Line(3.0, batches=260))
    assert findings(trainer)[0].severity is Severity.WARNING


@pytest.mark.parametrize("kind", CLASSIFIERS, ids=lambda kind: kind.__name__)
def test_healthy_runs_are_quiet(kind: type[TinyModule]) -> None:
    trainer, watch = fit(kind(batches=30), StabilityProbe(every_n_steps=7), max_epochs=4)
    assert len(watch.found) >= 3
    assert findings(trainer) == []
    assert Journal.of(trainer).notes == []


class FullBatch(TinyModule):
    """Gradient descent proper, on a smooth loss."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return 3 * F.mse_loss(self(x), F.one_hot(y, 3).float())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def test_full_batches_learn_at_the_edge() -> None:
    trainer, watch = fit(FullBatch(0.3, batches=1, batch_size=64), StabilityProbe(every_n_steps=25), max_epochs=250)
    late = [found.excess for found in watch.found[5:] if found.excess is not None]
    assert len(late) == 5
    assert 0.85 < min(late) <= max(late) < 1.2
    assert findings(trainer) == []


def test_full_batches_diverge_beyond_it() -> None:
    trainer, _ = fit(FullBatch(0.55, batches=1, batch_size=64), StabilityProbe(every_n_steps=10), max_epochs=60)
    (found,) = findings(trainer)
    assert (found.code, found.severity, found.step) == ("LT511", Severity.WARNING, 0)
    assert found.evidence["stable_lr"] < 0.3


@pytest.mark.parametrize("kind", [*MODEL_KINDS, CompiledDropoutNet], ids=lambda kind: kind.__name__)
def test_measuring_at_every_step_changes_no_bit(kind: type[TinyModule]) -> None:
    probe = StabilityProbe(every_n_steps=1, iterations=3)
    watch = Watch(probe)
    assert_identical(fit_for_bits(kind, []), fit_for_bits(kind, [probe, watch]))
    assert (len(watch.found) == 0) == (kind is ManualGAN or kind.__name__ == "TransformerNet")  # Adam's first steps


@pytest.mark.parametrize(
    "settings",
    [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}, {"precision": "64-true"}],
    ids=lambda settings: next(iter(settings)) + str(next(iter(settings.values()))),
)
@pytest.mark.parametrize("kind", [BNConvNet, DropoutNet], ids=lambda kind: kind.__name__)
def test_nor_under(settings: dict[str, Any], kind: type[TinyModule]) -> None:
    probe = StabilityProbe(every_n_steps=1, iterations=3)
    watch = Watch(probe)
    assert_identical(fit_for_bits(kind, [], **settings), fit_for_bits(kind, [probe, watch], **settings))
    assert len(watch.found) > 2


class DecaysOnce(Line):
    """After a first step without gradients to remember, Adam is compared over 110 steps."""

    def __init__(self) -> None:
        super().__init__(1e-2, batches=110, make=torch.optim.AdamW)


def test_nor_in_the_metric_of_adam() -> None:
    def weights(*callbacks: pl.Callback) -> dict[str, Any]:
        trainer, model = quiet_trainer(callbacks=list(callbacks)), DecaysOnce()
        trainer.fit(model)
        return {"weights": model.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}

    probe = StabilityProbe(every_n_steps=1)
    assert_identical(weights(), weights(probe))
    assert probe.stability is not None


def test_an_accumulated_step_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(trainer: Any, module: Any, batch: Any, batch_idx: int, **settings: Any) -> Stability:
        calls.append(batch_idx)
        return stability_of(trainer, module, batch, batch_idx, **settings)

    monkeypatch.setattr("lightning_tuning.monitors.stability_probe.stability_of", counted)
    fit(Line(batches=12), StabilityProbe(every_n_steps=1), accumulate_grad_batches=3)
    assert calls == [0, 3, 6, 9]


class Logger(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step or 0, metrics))


def test_what_is_logged() -> None:
    logger = Logger()
    fit(Line(), StabilityProbe(every_n_steps=20), logger=logger)
    ours = [(step, metrics) for step, metrics in logger.logged if "tuning/sharpness" in metrics]
    assert [step for step, _ in ours] == [0, 20]
    assert ours[1][1] == pytest.approx({"tuning/sharpness": 2.0, "tuning/sharpness_bound": 20.0})


def test_an_optimizer_without_a_bound() -> None:
    trainer, watch = fit(Line(make=torch.optim.Adadelta), StabilityProbe(every_n_steps=10))
    assert len(watch.found) == 4
    assert findings(trainer) == []
    assert Journal.of(trainer).notes == [
        "StabilityProbe knows no stable learning rate: no bound on the curvature is known for the steps of Adadelta."
    ]


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ctx.saved_tensors[0].exp() * gradient


class OnceNet(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(self.net(x))


class Iterates(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.more = iter(range(1000))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (ManualGAN, "blind here: Which loss is whose is not known with 2 optimizers"),
        (OnceNet, "blind here: the backward pass of one of its functions is `once_differentiable`"),
        (Iterates, "blind here: `more` is an iterator"),
    ],
    ids=["two optimizers", "once differentiable", "iterator"],
)
def test_where_it_is_blind_it_says_so_once(make: Any, reason: str) -> None:
    probe = StabilityProbe(every_n_steps=2)
    trainer, _ = fit(make(), probe, max_epochs=2)
    (note,) = Journal.of(trainer).notes
    assert note.startswith(reason)
    assert "StabilityProbe" in note
    assert probe.stability is None
    assert findings(trainer) == []


@pytest.mark.filterwarnings("ignore:.* If this was on purpose, ignore this warning:UserWarning")  # it was
def test_a_batch_without_a_loss_is_made_up_for() -> None:
    class NoLossAtFirst(Line):
        """Has nothing to say to two batches."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx < 2 else super().training_step(batch, batch_idx)

    trainer, watch = fit(NoLossAtFirst(), StabilityProbe(every_n_steps=None))
    assert len(watch.found) == 1
    assert Journal.of(trainer).notes == []


def test_it_resumes_where_it_was(tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    unbroken, _ = fit(
        Line(3.0), StabilityProbe(every_n_steps=10), gradient_clip_val=0.5, callbacks=[saved], max_epochs=2,
        enable_checkpointing=True,
    )  # fmt: skip
    expected = [(f.code, f.count, f.steps()) for f in findings(unbroken)]
    assert expected == [("LT511", 8, "x8, steps 0-70")]
    probe = StabilityProbe(every_n_steps=10)
    trainer = quiet_trainer(callbacks=[probe], gradient_clip_val=0.5, max_epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Line(3.0), ckpt_path=tmp_path / "step=40.ckpt")
    assert [(f.code, f.count, f.steps()) for f in findings(trainer)] == expected
    state = torch.load(tmp_path / "step=30.ckpt", weights_only=True)["lightning_tuning"]["StabilityProbe"]
    assert state == {"seen": 29, "tries": 0, "above": [0, 10, 20], "judged": [0, 10, 20]}


def fit_on_a_rank(model: pl.LightningModule, *callbacks: pl.Callback) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks), strategy=gloo(), devices=2, max_steps=4)
    trainer.fit(model)
    return trainer


def of_one_rank(rank: int) -> dict[str, Any]:
    bare = Mlp()
    fit_on_a_rank(bare)
    out: dict[str, Any] = {"bare": dict(bare.state_dict())}
    for kind in (Mlp, Synced, OneBroken):
        probe, model = StabilityProbe(every_n_steps=2), kind()
        notes = Journal.of(fit_on_a_rank(model, probe)).notes
        out[kind.__name__] = probe.stability, dict(model.state_dict()), list(notes)
    return out


class Synced(Mlp):
    """Talks to the other rank in its step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.all_gather(loss.detach())
        return loss


class OneBroken(Mlp):
    """Rank 1 cannot be measured."""

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(self.net(x)) if self.global_rank == 1 else self.net(x)


def test_two_ranks() -> None:
    one, other = on_two_ranks(of_one_rank)
    assert one["Mlp"][0] == other["Mlp"][0] is not None
    assert_identical(one["Mlp"][1], one["bare"])
    assert one["OneBroken"][0] == other["OneBroken"][0] is not None
    assert one["Synced"][0] is other["Synced"][0] is None
    assert "communicates with other ranks" in one["Synced"][2][0]
    assert_identical(one["Synced"][1], one["bare"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "`every_n_steps` must be a whole number of at least 1 or None, got 0"),
        ({"every_n_steps": 2.5}, "`every_n_steps` must be a whole number of at least 1 or None, got 2.5"),
        ({"every_n_steps": True}, "`every_n_steps` must be a whole number of at least 1 or None, got True"),
        ({"every_n_steps": None, "at_start": False}, "nothing would be measured"),
        ({"iterations": 0}, "`iterations` must be a whole number of at least 1, got 0"),
        ({"excess": 0.9}, "`excess` must be at least 1 and finite, got 0.9"),
        ({"excess": math.inf}, "`excess` must be at least 1 and finite, got inf"),
        ({"excess": math.nan}, "`excess` must be at least 1 and finite, got nan"),
    ],
)
def test_bad_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StabilityProbe(**settings)
