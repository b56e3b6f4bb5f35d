from __future__ import annotations

import csv
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from lightning_tuning.measure import Meter, Reading
from lightning_tuning.measure.gradients import GradientNorms, GradientReader
from lightning_tuning.runtime import Desk, TuningCallback
from tests.helpers import BNConvNet, ManualGAN, Mlp, quiet_trainer


class Spy(TuningCallback):
    """Has norms measured, and compares them with a naive oracle at once."""

    def __init__(self) -> None:
        self.oracle: list[tuple[int, float]] = []
        self.losses: list[float] = []
        self.readings: list[Reading] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).watch_loss()
        Desk.of(trainer).meter.subscribe(self.readings.append)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        norms = Desk.of(trainer).meter.gradient_norms(optimizer, self)
        gradients = [p.grad.double() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler and getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
        self.oracle.append((trainer.global_step, math.sqrt(sum(float((g / scale).square().sum()) for g in gradients))))
        assert norms.names == tuple(
            n
            for n, p in pl_module.named_parameters()
            if any(p is q for g in optimizer.param_groups for q in g["params"])
        )
        assert float(norms.total) == pytest.approx(self.oracle[-1][1], rel=1e-5)
        assert norms.each.tolist() == pytest.approx([float((g / scale).norm()) for g in gradients], rel=1e-4, abs=1e-12)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all measurements really made."""
    sizes: list[int] = []

    read = GradientReader.read

    def counting(self: GradientReader, optimizer: Optimizer) -> GradientNorms:
        norms = read(self, optimizer)
        sizes.append(len(norms.names))
        return norms

    monkeypatch.setattr(GradientReader, "read", counting)
    return sizes


def test_what_the_short_way_cannot_take_goes_the_long_one() -> None:
    net = torch.nn.Linear(2, 1).double()
    net.weight.grad = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    table = torch.nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    plain = torch.nn.Linear(4, 1)
    plain.weight.grad, plain.bias.grad = torch.full((1, 4), math.inf), torch.zeros(1)
    for module, expected in ((net, [5.0]), (table, [math.sqrt(12)]), (plain, [math.inf, 0.0])):
        trainer = quiet_trainer()
        trainer.strategy._lightning_module = pl.LightningModule()
        norms = GradientReader(trainer).read(torch.optim.SGD(module.parameters(), lr=0.1))
        assert norms.landed == pytest.approx(expected)
        assert len(norms.names) == len(expected)


def test_three_callbacks_one_measurement_per_step(measured: list[int]) -> None:
    spies = [Spy(), Spy(), Spy()]
    quiet_trainer(callbacks=list(spies)).fit(Mlp())
    assert measured == [6] * 8
    assert spies[0].oracle == spies[1].oracle == spies[2].oracle
    assert [r.grad_norm for r in spies[0].readings] == pytest.approx([norm for _, norm in spies[0].oracle], rel=1e-5)
    assert spies[0].readings == spies[2].readings


def test_nobody_asks_nothing_is_measured(measured: list[int]) -> None:
    quiet_trainer(callbacks=[TuningCallback()]).fit(Mlp())
    assert measured == []


def test_accumulation_measures_the_window_and_undoes_the_division(measured: list[int]) -> None:
    class Recording(Mlp):
        seen: list[float]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.seen.append(float(loss.detach()))
            return loss

    spy, model = Spy(), Recording()
    model.seen = []
    quiet_trainer(callbacks=[spy], accumulate_grad_batches=3).fit(model)
    assert len(measured) == 3  # 8 batches: 3 + 3 + 2
    assert [r.optimizer for r in spy.readings] == [None, None, 0, None, None, 0, None, 0]
    assert [r.loss for r in spy.readings] == pytest.approx(model.seen)
    assert [r.step for r in spy.readings] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_two_optimizers_by_hand_get_their_own(measured: list[int]) -> None:
    spy = Spy()
    quiet_trainer(callbacks=[spy]).fit(ManualGAN())
    assert measured == [4, 4] * 8
    assert [r.optimizer for r in spy.readings] == [0, 1] * 8
    assert [r.grad_norm for r in spy.readings] == pytest.approx([norm for _, norm in spy.oracle], rel=1e-5)


def test_lbfgs_measures_each_inner_evaluation(measured: list[int]) -> None:
    class Quadratic(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    spy = Spy()
    quiet_trainer(callbacks=[spy]).fit(Quadratic())
    assert len(measured) > 8
    assert len(spy.readings) == 8  # one reading a step, the last evaluation's


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_are_measured_unscaled(fused: bool) -> None:
    class Scaled(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, fused=fused)

    spy = Spy()
    plugin = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=1024.0))
    quiet_trainer(callbacks=[spy], plugins=[plugin]).fit(Scaled())
    assert len(spy.oracle) == 8


def test_who_asks_again_has_the_gradients_measured_anew(measured: list[int]) -> None:
    class Asks(TuningCallback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
            meter, gradient = Desk.of(trainer).meter, next(p.grad for p in pl_module.parameters())
            first = meter.gradient_norms(optimizer, "first")
            gradient *= 2
            assert meter.gradient_norms(optimizer, "second") is first
            again = meter.gradient_norms(optimizer, "first")
            assert float(again.each[0]) == pytest.approx(2 * float(first.each[0]))
            assert meter.gradient_norms(optimizer, "second") is again
            assert meter.gradient_norms(optimizer) is not again

    quiet_trainer(callbacks=[Asks()], max_steps=2).fit(Mlp())
    assert measured == [6] * 6


def test_nan_and_infinity_together_are_nan() -> None:
    class Breaks(TuningCallback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
            for parameter, value in zip(pl_module.parameters(), (math.inf, math.nan), strict=False):
                parameter.grad.fill_(value)
            assert math.isnan(Desk.of(trainer).meter.gradient_norms(optimizer).total)

    quiet_trainer(callbacks=[Breaks()], max_steps=1).fit(Mlp())


def test_unused_parameters_are_left_out() -> None:
    class Unused(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Linear(2, 2)

    class Names(Spy):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            Desk.of(trainer).meter.gradient_norms(optimizer)

    spy = Names()
    quiet_trainer(callbacks=[spy]).fit(Unused())
    assert {len(r.names) for r in spy.readings} == {6}
    assert not any("unused" in name for r in spy.readings for name in r.names)


def logged(logger: CSVLogger) -> list[dict[str, str]]:
    with Path(logger.log_dir, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_norm_is_logged_at_the_trainers_interval(tmp_path: Any) -> None:
    spy = Spy()
    logger = CSVLogger(tmp_path)
    quiet_trainer(callbacks=[spy, Spy()], logger=logger, log_every_n_steps=3, max_epochs=2).fit(Mlp())
    rows = [row for row in logged(logger) if row["tuning/grad_norm"]]
    steps = [int(row["step"]) for row in rows]
    assert steps == [2, 5, 8, 11, 14]
    norms = dict(spy.oracle)
    assert [float(row["tuning/grad_norm"]) for row in rows] == pytest.approx([norms[s] for s in steps], rel=1e-5)


def test_several_optimizers_are_logged_apart(tmp_path: Any) -> None:
    logger = CSVLogger(tmp_path)
    quiet_trainer(callbacks=[Spy()], logger=logger).fit(ManualGAN())
    keys = {key for row in logged(logger) for key in row if key.startswith("tuning")}
    found = {"tuning/findings/error", "tuning/findings/warning", "tuning/findings/info"}
    assert keys == {"tuning/grad_norm/optimizer_0", "tuning/grad_norm/optimizer_1"} | found


def test_a_dropped_batch_lands_nowhere(tmp_path: Any) -> None:
    class Drops(Spy):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 4:
                Desk.of(trainer).meter.drop_batch()

    spy, logger = Drops(), CSVLogger(tmp_path)
    quiet_trainer(callbacks=[spy], logger=logger).fit(Mlp())
    assert [r.step for r in spy.readings] == [0, 1, 2, 4, 5, 6, 7]
    assert [int(row["step"]) for row in logged(logger) if row["tuning/grad_norm"]] == [0, 1, 2, 4, 5, 6, 7]


def test_a_replaced_parameter_is_measured_anew() -> None:
    class Replaces(Spy):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                old, new = pl_module.net[4], torch.nn.Linear(16, 3)
                pl_module.net[4] = new
                group = trainer.optimizers[0].param_groups[0]
                swap = {id(old.weight): new.weight, id(old.bias): new.bias}
                group["params"] = [swap.get(id(p), p) for p in group["params"]]

    spy = Replaces()
    quiet_trainer(callbacks=[spy]).fit(Mlp())
    assert len(spy.oracle) == 8


def test_trainer_and_meter_die_together() -> None:
    trainer = quiet_trainer(callbacks=[Spy()], max_steps=2)
    trainer.fit(BNConvNet())
    same = Meter.of(trainer) is Meter.of(trainer)
    alive = [weakref.ref(trainer), weakref.ref(Meter.of(trainer))]
    del trainer
    for _ in range(2):  # the trainer's end frees the meter, which is in a cycle with its subscribers
        gc.collect()
    assert same
    assert [ref() for ref in alive] == [None, None]


class Puts(TuningCallback):
    """Puts numbers of its own, before the meter is told of the batch's end and after it."""

    def __init__(self) -> None:
        self.received: list[list[list[float]]] = []
        self.readings: list[Reading] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).watch_loss()
        Desk.of(trainer).meter.subscribe(self.readings.append)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        meter = Desk.of(trainer).meter
        if trainer.global_step % 2:  # half of the batches have numbers of their own, the others only a loss
            meter.gradient_norms(optimizer, self)
            meter.clip_at(optimizer, float(trainer.global_step))
        meter.put([torch.tensor(float(trainer.global_step)), torch.tensor([1.0, 2.0])], self.received.append)
        meter.put([torch.tensor([-1.0])], self.received.append)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Desk.of(trainer).meter.put([torch.tensor(99.0)], self.received.append)  # lands with the end of the run


def test_numbers_of_ones_own_land_with_those_of_the_batch() -> None:
    spy = Puts()
    quiet_trainer(callbacks=[spy]).fit(Mlp())
    expected = [numbers for step in range(8) for numbers in ([[float(step)], [1.0, 2.0]], [[-1.0]])]
    assert spy.received == [*expected, [[99.0]]]
    assert [reading.grad_norm is not None for reading in spy.readings] == [False, True] * 4
    assert [reading.loss is not None for reading in spy.readings] == [True] * 8


def test_who_clips_is_told_of_its_step_alone() -> None:
    spy = Puts()
    quiet_trainer(callbacks=[spy]).fit(Mlp())
    assert [reading.clip for reading in spy.readings] == [None, 1.0, None, 3.0, None, 5.0, None, 7.0]
