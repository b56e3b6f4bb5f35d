"""The sweep trains as the run would, leaves no trace, and its rate is the one that the run gets."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, Dataset

from lightning_tuning import Journal, LRRangeTest, PlateauLR, WeightInitCallback
from lightning_tuning.functional.lr_range import LRSuggestion, sweep_rates
from lightning_tuning.trace import RngState
from lightning_tuning.treatments import lr_range_test
from lightning_tuning.treatments._lr_sweep import train_aside
from tests.contracts.test_bit_identity import assert_identical
from tests.helpers import CLASSIFIERS, DropoutNet, ManualGAN, Mlp, TinyModule, blobs, quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning"),
]

BRIEF = {"steps": 30, "verify": 10}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "AdamW with a tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-2), foreach=False, capturable=False),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


class Witness(pl.Callback):
    """What a run looks like from outside."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.hooks: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.hooks.append("start")
        self.seen.append((batch[0].clone(), batch_idx, RngState.capture().state_dict()["cpu"].clone()))

    def on_before_backward(self, *_: Any) -> None:
        self.hooks.append("backward")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.hooks.append("end")
        rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
        self.seen.append((outputs["loss"].clone(), rates, trainer.global_step))


class Net(Mlp):
    def __init__(self, make: Callable[[Any], Any] = OPTIMIZERS["SGD"], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.make = make

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def run(model: pl.LightningModule, *callbacks: pl.Callback, data: Any = None, **settings: Any) -> dict[str, Any]:
    pl.seed_everything(3, verbose=False)
    witness = Witness()
    trainer = quiet_trainer(callbacks=[*callbacks, witness], max_epochs=settings.pop("max_epochs", 2), **settings)
    trainer.fit(model, data)
    (optimizer,) = trainer.optimizers
    return {
        "seen": witness.seen,
        "hooks": witness.hooks,
        "weights": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "rng": RngState.capture().state_dict()["cpu"],
        "attributes": sorted(vars(model)),
    }


@pytest.mark.parametrize("kind", CLASSIFIERS, ids=lambda kind: kind.__name__)
def test_a_sweep_changes_no_bit_of_the_run(kind: type[TinyModule]) -> None:
    callback = LRRangeTest(update=False, **BRIEF)
    assert_identical(run(kind()), run(kind(), callback))
    assert callback.result_ is not None
    assert len(callback.result_.losses) >= 8


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nor_does_it_with_any_optimizer(name: str) -> None:
    callback = LRRangeTest(update=False, **BRIEF)
    assert_identical(run(Net(OPTIMIZERS[name])), run(Net(OPTIMIZERS[name]), callback))
    assert callback.result_ is not None
    assert callback.result_.losses[0] != callback.result_.losses[-1]


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16-mixed"},
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.1},
        {"overfit_batches": 2},
        {"limit_train_batches": 3, "val_check_interval": 2},
        {"num_sanity_val_steps": 0, "reload_dataloaders_every_n_epochs": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.filterwarnings("ignore:.*overfit_batches.*:UserWarning")
def test_nor_in_any_way_to_train(settings: dict[str, Any]) -> None:
    assert_identical(run(DropoutNet(), **settings), run(DropoutNet(), LRRangeTest(update=False, **BRIEF), **settings))


def test_nor_with_a_gradient_scaler() -> None:
    def scaled() -> dict[str, Any]:
        return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu"))]}

    callback = LRRangeTest(update=False, **BRIEF)
    assert_identical(run(Mlp(), **scaled()), run(Mlp(), callback, **scaled()))
    assert callback.result_ is not None
    assert callback.result_.suggested is not None


class Drawn(Dataset[Any]):
    """Samples with noise of a generator of its own."""

    def __init__(self) -> None:
        self.data, self.generator = blobs(64), torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        return x + 0.1 * torch.randn(8, generator=self.generator), y


def loader(**settings: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    return DataLoader(Drawn(), batch_size=8, shuffle=True, generator=generator, **settings)


def test_loaders_given_to_fit_go_on_as_they_would() -> None:
    assert_identical(run(Mlp(), data=loader()), run(Mlp(), LRRangeTest(update=False, **BRIEF), data=loader()))


def test_workers_that_persist_stay_with_the_run() -> None:
    settings = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "fork"}
    callback = LRRangeTest(update=False, steps=10, verify=0)
    assert_identical(run(Mlp(), data=loader(**settings)), run(Mlp(), callback, data=loader(**settings)))


class Module(pl.LightningDataModule):
    """Remembers each epoch that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.count = 0

    def train_dataloader(self) -> Any:
        self.count += 1
        self.asked.append(self.count)
        return DataLoader(blobs(64, seed=self.count), batch_size=8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(blobs(16, seed=5), batch_size=8)


def test_a_data_module_remembers_nothing_of_it() -> None:
    bare, swept = Module(), Module()
    assert_identical(run(Mlp(), data=bare), run(Mlp(), LRRangeTest(update=False, **BRIEF), data=swept))
    assert (swept.asked, swept.count) == (bare.asked, bare.count) == ([1], 1)


class Once(DataLoader[Any]):
    def __next__(self) -> Any:
        raise StopIteration


def test_batches_that_can_be_had_once_only_are_left_to_the_run() -> None:
    with pytest.raises(MisconfigurationException, match="can be read once only"):
        run(Mlp(), LRRangeTest(**BRIEF), data=Once(blobs(64), batch_size=8))


class Swept(pl.Callback):
    """Trains aside at given rates at the start of the first batch."""

    def __init__(self, rates: list[float]) -> None:
        self.rates, self.losses = rates, [0.0]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0 and self.losses == [0.0]:
            self.losses = train_aside(trainer, pl_module, self.rates)


class ByHand(pl.Callback):
    """The same rates in the run itself."""

    def __init__(self, rates: list[float]) -> None:
        self.rates, self.losses = rates, {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for group, ratio in zip(optimizer.param_groups, (1.0, 0.1), strict=False):
            group["lr"] = self.rates[trainer.global_step] * ratio

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        window = batch_idx // trainer.accumulate_grad_batches
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning divides it
        self.losses.setdefault(window, []).append(loss)


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.05}],
    ids=lambda settings: next(iter(settings), "plain"),
)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad", "two groups"])
def test_it_trains_as_lightning_would(name: str, settings: dict[str, Any]) -> None:
    def two(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": rest, "lr": 0.02}], momentum=0.9)

    make = OPTIMIZERS.get(name, two)
    rates = sweep_rates(1e-3, 0.5, 8)
    by_hand, swept = ByHand(rates), Swept(rates)
    run(Net(make, batches=16), by_hand, max_steps=8, **settings)
    run(Net(make, batches=16), swept, max_steps=1, **settings)
    expected = [sum(losses) / len(losses) for losses in by_hand.losses.values()]
    assert swept.losses == pytest.approx(expected, rel=1e-5)
    assert min(swept.losses) < swept.losses[0]


def test_the_rate_is_set_and_said() -> None:
    callback = LRRangeTest(**BRIEF)
    trainer = quiet_trainer(callbacks=[callback], max_epochs=4)
    trainer.fit(Net(lambda p: torch.optim.SGD(p, lr=1e-5, momentum=0.9)))
    result = callback.result_
    assert result is not None
    assert result.suggested == trainer.optimizers[0].param_groups[0]["lr"]
    assert 3e-3 < trainer.optimizers[0].param_groups[0]["lr"] < 0.3
    assert (result.verified, result.before) == (True, 1e-5)
    (note,) = Journal.of(trainer).notes
    assert note.startswith("LRRangeTest: learning rate 0.")
    assert note.endswith("It was 1e-05.")
    assert float(trainer.callback_metrics["train_loss"]) < 0.9 * result.losses[0]


def test_groups_keep_their_ratio() -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 1e-6}, {"params": rest, "lr": 1e-5}], momentum=0.9)

    callback, trainer = LRRangeTest(**BRIEF), None
    trainer = quiet_trainer(callbacks=[callback])
    trainer.fit(Net(make))
    low, high = (group["lr"] for group in trainer.optimizers[0].param_groups)
    assert callback.result_ is not None
    assert high == callback.result_.suggested
    assert low == pytest.approx(high / 10)


def test_a_rate_that_is_a_tensor_stays_one() -> None:
    trainer = quiet_trainer(callbacks=[callback := LRRangeTest(**BRIEF)])
    rate = torch.tensor(1e-5)
    trainer.fit(Net(lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9)))
    assert trainer.optimizers[0].param_groups[0]["lr"] is rate
    assert callback.result_ is not None
    assert float(rate) == pytest.approx(callback.result_.suggested)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: CosineAnnealingLR(o, T_max=20),
    "step": lambda o: StepLR(o, 3),
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "one cycle": lambda o: OneCycleLR(o, max_lr=[group["lr"] for group in o.param_groups], total_steps=20),
    "cyclic": lambda o: CyclicLR(o, o.param_groups[0]["lr"] / 10, o.param_groups[0]["lr"], step_size_up=4),
    "warm-up, then cosine": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=4), CosineAnnealingLR(o, 20)], [4]),
    "chained": lambda o: ChainedScheduler([ConstantLR(o, 0.5, 3), StepLR(o, 4)]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_as_if_the_rate_had_been_given(name: str) -> None:
    def net(rate: float) -> Net:
        def make(parameters: Any) -> Any:
            optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
            schedule = {"scheduler": SCHEDULES[name](optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

        return Net(make)

    callback = LRRangeTest(**BRIEF)
    swept = run(net(1e-4), callback)
    assert callback.result_ is not None
    assert callback.result_.before == pytest.approx(1e-4)
    given = run(net(callback.result_.suggested or math.nan))
    rates = [seen[1] for seen in swept["seen"][1::2]]
    assert rates == [pytest.approx(seen[1]) for seen in given["seen"][1::2]]


def test_with_a_plateau_scheduler() -> None:
    trainer = quiet_trainer(callbacks=[LRRangeTest(**BRIEF), PlateauLR("val_loss", patience=0, threshold=0.9)])
    trainer.fit_loop.max_epochs = 4
    trainer.fit(Mlp())
    result = next(callback for callback in trainer.callbacks if isinstance(callback, LRRangeTest)).result_
    assert result is not None
    assert result.suggested is not None
    assert trainer.optimizers[0].param_groups[0]["lr"] in {result.suggested / 2**cuts for cuts in (1, 2, 3)}


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.mark.parametrize("step", [1, 8, 11])
def test_a_run_that_is_resumed_keeps_its_rate_and_result(step: int, tmp_path: Path) -> None:
    first, again = LRRangeTest(**BRIEF), LRRangeTest(**BRIEF)
    trainer = quiet_trainer(callbacks=[first, checkpoints(tmp_path)], max_epochs=2, enable_checkpointing=True)
    trainer.fit(Mlp(lr=1e-5))
    path = tmp_path / f"step={step}.ckpt"
    assert torch.load(path, weights_only=True)["lightning_tuning"]["LRRangeTest"]

    def resumed(*callbacks: pl.Callback) -> dict[str, Any]:
        pl.seed_everything(3, verbose=False)
        trainer, model = quiet_trainer(callbacks=[*callbacks], max_epochs=2), Mlp(lr=1e-5)
        trainer.fit(model, ckpt_path=path)
        return {"weights": dict(model.state_dict()), "optimizer": trainer.optimizers[0].state_dict()}

    assert_identical(resumed(), resumed(again))
    assert again.result_ == first.result_


def test_every_fit_has_a_sweep_of_its_own() -> None:
    callback, model = LRRangeTest(**BRIEF), Mlp()
    quiet_trainer(callbacks=[callback]).fit(model)
    first = callback.result_
    quiet_trainer(callbacks=[callback]).fit(model)
    assert callback.result_ is not None
    assert callback.result_ != first
    assert first is not None
    assert callback.result_.losses[0] < 0.95 * first.losses[0]  # of weights that were trained


def test_initial_weights_are_drawn_before_whatever_the_order() -> None:
    def swept(*callbacks: pl.Callback) -> list[float]:
        run(Mlp(), *callbacks, max_epochs=1)
        (result,) = (callback.result_ for callback in callbacks if isinstance(callback, LRRangeTest))
        assert result is not None
        return result.losses

    behind = swept(WeightInitCallback(), LRRangeTest(**BRIEF))
    assert swept(LRRangeTest(**BRIEF), WeightInitCallback()) == behind
    assert swept(LRRangeTest(**BRIEF)) != behind


@pytest.mark.parametrize(("suggested", "rates"), [(3.0, 3), (300.0, 4)])
def test_a_suggestion_that_does_not_hold_is_divided(
    monkeypatch: pytest.MonkeyPatch, suggested: float, rates: int
) -> None:
    found = LRSuggestion(suggested, 1e-3, suggested, 1.0, 1.0, 1.0)
    monkeypatch.setattr(lr_range_test, "suggest_lr", lambda rates, losses: found)
    callback = LRRangeTest(steps=10, verify=30)
    trainer = quiet_trainer(callbacks=[callback])
    trainer.fit(Mlp(lr=1e-3))
    result = callback.result_
    assert result is not None
    assert [trial.rate for trial in result.trials] == pytest.approx([suggested / 3**i for i in range(rates)])
    assert [trial.has_lowered for trial in result.trials[:-1]] == [False] * (rates - 1)
    held = suggested < 100
    assert result.verified is held
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    assert rate == (pytest.approx(result.trials[-1].rate) if held else 1e-3)
    assert (result.reason is None) is held
    if not held:
        assert "no short run lowered the loss, at 3e+02, 1e+02, 33, 11" in Journal.of(trainer).notes[0]


class Deaf(Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * 0 + 2.3 + 0.01 * (batch_idx % 3)


class Silent(Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


class Broken(Mlp):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * math.nan


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Deaf, "does not fall at any rate by more than its noise"),
        (Silent, "no loss was measured"),
        (Broken, "no loss was finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_without_a_suggestion_the_rate_stays(model: type[Mlp], reason: str) -> None:
    callback = LRRangeTest(**BRIEF)
    trainer = quiet_trainer(callbacks=[callback])
    trainer.fit(model(lr=0.07))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.07
    assert callback.result_ is not None
    assert reason in (callback.result_.reason or "")
    assert Journal.of(trainer).notes[0].endswith("The optimizer keeps 0.07.")


def test_fast_dev_run_is_no_time_for_it() -> None:
    callback = LRRangeTest()
    quiet_trainer(callbacks=[callback], fast_dev_run=True).fit(Mlp())
    assert callback.result_ is None


def test_the_result_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "pictures" / "sweep.png"
    quiet_trainer(callbacks=[LRRangeTest(plot=str(path), **BRIEF)]).fit(Mlp())
    assert path.read_bytes().startswith(b"\x89PNG")
    path.unlink()
    quiet_trainer(callbacks=[LRRangeTest(plot=str(path), **BRIEF)]).fit(Broken())
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        LRRangeTest(plot="sweep.png")


def test_manual_optimization_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"give the losses to `functional\.suggest_lr"):
        quiet_trainer(callbacks=[LRRangeTest()]).fit(ManualGAN())


class Lazy(Mlp):
    def build(self) -> nn.Module:
        return nn.LazyLinear(3)


def test_a_lazy_module_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="before the first batch of a lazy module"):
        quiet_trainer(callbacks=[LRRangeTest()], num_sanity_val_steps=0).fit(Lazy())


class Fails(Mlp):
    calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        type(self).calls += 1
        if type(self).calls == 5:
            raise RuntimeError("a mistake of the user's")
        return super().training_step(batch, batch_idx)


def test_after_an_error_in_the_sweep_everything_is_as_it_was() -> None:
    model, before = Fails(), copy.deepcopy(Mlp().state_dict())
    trainer = quiet_trainer(callbacks=[LRRangeTest()])
    with pytest.raises(RuntimeError, match="a mistake of the user's"):
        trainer.fit(model)
    assert_identical(dict(model.state_dict()), dict(before))
    assert not trainer.optimizers[0].state
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1
    assert not {"log", "optimizers", "manual_backward"} & vars(model).keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"min_lr": -1.0}, "`min_lr` must be a finite number above 0, got -1.0"),
        ({"max_lr": 1e-9}, "`max_lr` must be finite and above `min_lr` \\(1e-07\\), got 1e-09"),
        ({"steps": 3}, "`steps` must be an integer of at least 8, got 3"),
        ({"verify": 1}, "`verify` must be 0 or an integer of at least 2, got 1"),
        ({"verify": True}, "`verify` must be"),
        ({"stop_factor": 1.0}, "`stop_factor` must be a finite number above 1, got 1.0"),
        ({"stop_factor": math.nan}, "`stop_factor` must be"),
    ],
)
def test_refuses(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LRRangeTest(**arguments)


@pytest.fixture(autouse=True)
def _calls() -> Iterator[None]:
    Fails.calls = 0
    with torch.random.fork_rng(devices=[]):
        yield
