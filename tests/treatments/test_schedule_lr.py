"""The learning rates that ScheduleLR gives a run: those of torch's own scheduler, stepped by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from lightning_tuning.checks import ScheduleCheck
from lightning_tuning.findings import Journal
from lightning_tuning.functional.schedule_lr import schedule_lr_config
from lightning_tuning.mixins import ScheduleLRMixin
from lightning_tuning.rules._schedule import Horizon, Plan
from lightning_tuning.rules._schedule_judge import judge_schedule
from lightning_tuning.treatments import MomentumSchedule, PlateauLR, ScheduleLR
from tests.helpers import ManualGAN, Mlp, blobs, quiet_trainer

LR = 0.1
BATCHES = 8


class Recording(Mlp):
    """Knows the rate that every batch began with; ``configure`` makes what ``configure_optimizers`` returns."""

    def __init__(self, configure: Any = lambda optimizer: optimizer, **arguments: Any) -> None:
        super().__init__(LR, **arguments)
        self.configure = configure
        self.rates: list[float] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.rates.append(float(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def configure_optimizers(self) -> Any:
        return self.configure(super().configure_optimizers())


class ByHand(Recording):
    """The same net, optimized by hand; every ``every``-th batch makes a step."""

    def __init__(self, configure: Any = lambda optimizer: optimizer, every: int = 1) -> None:
        super().__init__(configure)
        self.automatic_optimization = False
        self.every = every

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 3, **settings})
    trainer.fit(module)
    return trainer


def stepped(make: Any, ticks: int) -> list[float]:
    """The rates of torch's own scheduler, before each of ``ticks`` ticks."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for _ in range(ticks):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def falls(tick: int) -> float:
    return 1 / (1 + tick)


STEPS = 3 * BATCHES
SCHEDULES: dict[str, tuple[dict[str, Any], Any]] = {
    "StepLR": ({"step_size": 5}, lambda o: lr_scheduler.StepLR(o, 5)),
    "MultiStepLR": ({"milestones": [4, 9]}, lambda o: lr_scheduler.MultiStepLR(o, [4, 9])),
    "ExponentialLR": ({"gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "PolynomialLR": ({"power": 2.0}, lambda o: lr_scheduler.PolynomialLR(o, STEPS, 2.0)),
    "CosineAnnealingLR": ({}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS)),
    "LambdaLR": ({"lr_lambda": falls}, lambda o: lr_scheduler.LambdaLR(o, falls)),
    "OneCycleLR": ({}, lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=STEPS)),
    "CosineAnnealingWarmRestarts": ({"T_0": 7}, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7)),
    "CyclicLR": (
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4},
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    ),
    "LinearLR": ({"start_factor": 1.0, "end_factor": 0.1}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, STEPS)),
}


@pytest.mark.parametrize("module", [Recording, ByHand])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rates_of_a_run_are_those_of_torchs_scheduler(name: str, module: type[Recording]) -> None:
    arguments, make = SCHEDULES[name]
    net = module()
    fit(net, ScheduleLR(name, arguments))
    assert net.rates == stepped(make, STEPS)


@pytest.mark.parametrize("module", [Recording, ByHand])
def test_it_steps_once_per_epoch(module: type[Recording]) -> None:
    net = module()
    fit(net, ScheduleLR("CosineAnnealingLR", interval="epoch"))
    assert net.rates == [r for r in stepped(lambda o: lr_scheduler.CosineAnnealingLR(o, 3), 3) for _ in range(BATCHES)]


@pytest.mark.parametrize("module", [Recording, ByHand])
@pytest.mark.parametrize(("interval", "frequency", "per_tick", "ticks"), [("step", 4, 4, 12), ("epoch", 3, 24, 2)])
def test_frequency(module: type[Recording], interval: Any, frequency: int, per_tick: int, ticks: int) -> None:
    net = module()
    fit(net, ScheduleLR("CosineAnnealingLR", interval=interval, frequency=frequency), max_epochs=6)
    cosine = stepped(lambda o: lr_scheduler.CosineAnnealingLR(o, ticks), ticks)
    assert net.rates == [rate for rate in cosine for _ in range(per_tick)]


def warmed(length: int, steps: int) -> list[float]:
    """A line from 1 / (length + 1), and a cosine over the rest."""
    line = [LR * (k + 1) / (length + 1) for k in range(length)]
    return [*line, *stepped(lambda o: lr_scheduler.CosineAnnealingLR(o, steps - length), steps - length)]


@pytest.mark.parametrize("module", [Recording, ByHand])
@pytest.mark.parametrize(("warmup", "length"), [(5, 5), (0.25, 6), (0.001, 1)])
def test_a_warmup(module: type[Recording], warmup: float, length: int) -> None:
    net = module()
    trainer = fit(net, ScheduleLR("CosineAnnealingLR", warmup=warmup))
    assert net.rates == pytest.approx(warmed(length, STEPS), rel=1e-6)
    assert Journal.of(trainer).notes == [
        f"ScheduleLR steps LinearLR(total_iters={length}), then CosineAnnealingLR(T_max={STEPS - length}) every step"
    ]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"accumulate_grad_batches": 3}, 9),
        ({"max_steps": 10}, 10),
        ({"max_steps": 10, "max_epochs": -1}, 10),
        ({"limit_train_batches": 5}, 15),
        ({"callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]}, 12),
        ({"max_epochs": 1}, 8),
    ],
    ids=["accumulation", "steps", "steps alone", "limited", "accumulation scheduler", "one epoch"],
)
def test_the_length_of_the_run(settings: dict[str, Any], steps: int) -> None:
    others = {name: value for name, value in settings.items() if name != "callbacks"}
    trainer = fit(Recording(), ScheduleLR("CosineAnnealingLR"), *settings.get("callbacks", []), **others)
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.T_max == steps == config.scheduler.last_epoch == trainer.global_step


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(blobs(64))


class Streaming(Recording):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream(), batch_size=16)


def test_a_run_without_a_length() -> None:
    with pytest.raises(MisconfigurationException, match=r"no known length .* Give `T_max` of 'CosineAnnealingLR', or"):
        fit(Streaming(), ScheduleLR("CosineAnnealingLR"))
    with pytest.raises(MisconfigurationException, match=r"no known length .* Give a warm-up in ticks, or"):
        fit(Streaming(), ScheduleLR("StepLR", {"step_size": 3}, warmup=0.1))
    net = Streaming()
    fit(net, ScheduleLR("CosineAnnealingLR"), max_steps=6)
    assert net.rates == stepped(lambda o: lr_scheduler.CosineAnnealingLR(o, 6), 6)
    net = Streaming()
    fit(net, ScheduleLR("CosineAnnealingLR", {"T_max": 9}, warmup=3))
    assert len(net.rates) == 12


@pytest.mark.parametrize(("settings", "is_said"), [({}, True), ({"fast_dev_run": True}, False)])
def test_a_warmup_that_leaves_nothing_is_said(settings: dict[str, Any], is_said: bool) -> None:
    trainer = fit(Recording(), ScheduleLR("CosineAnnealingLR", warmup=500), **settings)
    assert ("ScheduleLR warms up for all of the run's 24 steps" in Journal.of(trainer).notes) is is_said


def test_a_second_fit_has_a_schedule_for_what_is_left() -> None:
    net, callback = Recording(), ScheduleLR("CosineAnnealingLR")
    trainer = fit(net, callback, max_epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net)
    assert net.rates[BATCHES:] == stepped(lambda o: lr_scheduler.CosineAnnealingLR(o, 16), 16)


def test_precision_of_halves() -> None:
    net = Recording()
    fit(net, ScheduleLR("CosineAnnealingLR", warmup=4), precision="bf16-mixed")
    assert net.rates == pytest.approx(warmed(4, STEPS), rel=1e-6)


class TestTheModuleHasAScheduler:
    @staticmethod
    def cosine(optimizer: Any, interval: str = "step") -> dict[str, Any]:
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 18)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval, "name": "mine"}}

    def test_it_is_refused(self) -> None:
        with pytest.raises(MisconfigurationException, match="already has CosineAnnealingLR, and two schedulers"):
            fit(Recording(self.cosine), ScheduleLR("StepLR", {"step_size": 3}))

    def test_a_warmup_comes_before_it(self) -> None:
        net = Recording(self.cosine)
        trainer = fit(net, ScheduleLR(warmup=6, when_scheduled="chain"))
        assert net.rates == pytest.approx(warmed(6, STEPS), rel=1e-6)
        (config,) = trainer.lr_scheduler_configs
        assert (config.name, config.interval) == ("mine", "step")

    def test_before_a_bare_one_in_epochs(self) -> None:
        net = Recording(lambda optimizer: ([optimizer], [lr_scheduler.StepLR(optimizer, 1)]))
        fit(net, ScheduleLR(warmup=1, interval="epoch", when_scheduled="chain"))
        assert net.rates[::BATCHES] == pytest.approx([LR / 2, LR, LR / 10])

    def test_one_clock(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"interval='epoch', frequency=1, and .* has one clock"):
            fit(Recording(lambda o: self.cosine(o, "epoch")), ScheduleLR(warmup=6, when_scheduled="chain"))

    def test_one_that_cannot_wait(self) -> None:
        def configure(optimizer: Any) -> Any:
            scheduler = lr_scheduler.OneCycleLR(optimizer, LR, total_steps=30)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        with pytest.raises(MisconfigurationException, match="OneCycleLR, which warms up by itself"):
            fit(Recording(configure), ScheduleLR(warmup=6, when_scheduled="chain"))

    def test_several(self) -> None:
        def configure(optimizer: Any) -> Any:
            return [optimizer], [lr_scheduler.StepLR(optimizer, 1), lr_scheduler.ExponentialLR(optimizer, 0.9)]

        with pytest.raises(MisconfigurationException, match=r"several schedulers .* \(StepLR, ExponentialLR\)"):
            fit(Recording(configure), ScheduleLR(warmup=6, when_scheduled="chain"))

    def test_none_is_no_matter(self) -> None:
        net = Recording()
        fit(net, ScheduleLR(warmup=3, when_scheduled="chain"))
        assert net.rates == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, *[LR] * 21])

    def test_a_module_that_steps_by_hand_goes_on_doing_so(self) -> None:
        class Steps(ByHand):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                super().training_step(batch, batch_idx)
                self.lr_schedulers().step()

        net = Steps(lambda o: ([o], [lr_scheduler.CosineAnnealingLR(o, 18)]))
        fit(net, ScheduleLR(warmup=6, when_scheduled="chain"))
        assert net.rates == pytest.approx(warmed(6, STEPS), rel=1e-6)

    def test_a_warmup_goes_with_a_plateau(self) -> None:
        net = Recording()
        fit(
            net,
            PlateauLR("train_loss", patience=0, threshold=0.99, frequency=1),
            ScheduleLR(warmup=4, when_scheduled="chain"),
        )
        expected = [LR * (k + 1) / 5 for k in range(4)] + [LR] * 12 + [LR / 2] * 8
        assert net.rates == pytest.approx(expected)


class TestByHand:
    def test_steps_that_take_several_batches(self) -> None:
        net = ByHand(every=4)
        fit(net, ScheduleLR("CosineAnnealingLR"))
        assert net.rates == stepped(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), STEPS)

    def test_the_modules_own_schedulers_stay_as_they_are(self) -> None:
        seen = []

        class Looks(ByHand):
            def on_train_start(self) -> None:
                seen.append(self.lr_schedulers())

        callback = ScheduleLR("CosineAnnealingLR")
        trainer = fit(Looks(), callback)
        assert seen == [None]
        assert trainer.lr_scheduler_configs == []
        assert callback.schedulers == []  # let go after the run

    @pytest.mark.parametrize(("optimizer", "fall"), [(None, [True, True]), (0, [True, False]), ([1], [False, True])])
    def test_several_optimizers(self, optimizer: Any, fall: list[bool]) -> None:
        net = ManualGAN()
        trainer = fit(net, ScheduleLR("ExponentialLR", {"gamma": 0.5}, optimizer=optimizer), max_epochs=1)
        rates = [o.param_groups[0]["lr"] for o in trainer.optimizers]
        assert rates == pytest.approx([net.lr * (0.5**8 if f else 1) for f in fall])

    def test_their_steps_all_count_for_max_steps(self) -> None:
        callback = ScheduleLR("CosineAnnealingLR", {"eta_min": 1e-5})
        trainer = fit(ManualGAN(), callback, max_steps=8, max_epochs=-1)
        assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([1e-5, 1e-5])

    def test_an_index_too_many(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"optimizer=2\): `configure_optimizers` returned 2"):
            fit(ManualGAN(), ScheduleLR("ExponentialLR", {"gamma": 0.5}, optimizer=[0, 2]))


class TestTheCheckThatRunsItOnPaper:
    @pytest.mark.parametrize("interval", ["step", "epoch"])
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("CosineAnnealingLR", {}),
            ("PolynomialLR", {}),
            ("LinearLR", {"start_factor": 1.0, "end_factor": 0.01}),
            ("OneCycleLR", {}),
            ("ExponentialLR", {"gamma": 0.97}),
            ("CosineAnnealingWarmRestarts", {"T_0": 20}),
        ],
    )
    @pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")  # Lightning's; here it is meant
    def test_is_content(self, name: str, arguments: dict[str, Any], interval: Any) -> None:
        warmup = 0 if name == "OneCycleLR" else 0.08
        schedule = ScheduleLR(name, arguments, warmup=warmup, interval=interval)
        trainer = fit(Recording(batches=2, batch_size=4), ScheduleCheck(), schedule, max_epochs=50, limit_val_batches=0)
        assert [finding.text() for finding in Journal.of(trainer).findings] == []

    def test_advice_that_a_run_which_learns_does_not_hear(self) -> None:
        horizon = Horizon(epochs=50, batches=4)
        for warmup, codes in ((0.05, []), (0.5, ["LT512"])):
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
            config = schedule_lr_config(optimizer, "CosineAnnealingLR", ticks=200, warmup=warmup)
            plan = Plan(config["scheduler"], "SequentialLR", config["interval"], config["frequency"], horizon)
            assert [finding.code for finding in judge_schedule(plan)] == codes


def test_the_rate_is_logged_under_its_name(tmp_path: Any) -> None:
    class Logger(pl.loggers.CSVLogger):
        pass

    monitor = LearningRateMonitor()
    trainer = quiet_trainer(
        callbacks=[monitor, ScheduleLR("CosineAnnealingLR", name="rate")], logger=Logger(tmp_path), max_epochs=1
    )
    trainer.fit(Mlp())
    assert list(monitor.lrs) == ["rate"]


def test_arguments_are_checked_when_it_is_made() -> None:
    for arguments, message in [
        ({"when_scheduled": "replace"}, "`when_scheduled` must be 'refuse' or 'chain', got 'replace'."),
        ({"when_scheduled": "chain"}, "`scheduler` must be None with when_scheduled='chain'"),
        ({"optimizer": -1}, "`optimizer` must be None, an index of at least 0, or several, got -1."),
        ({"warmup": 2.0}, "`warmup` must be an integer of at least 0, or a fraction below 1, got 2.0."),
        ({"arguments": {"T_mux": 3}}, "`arguments` must be those of CosineAnnealingLR without the optimizer"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            ScheduleLR("CosineAnnealingLR", **arguments)
    with pytest.raises(ValueError, match="use PlateauLR, its sibling"):
        ScheduleLR("ReduceLROnPlateau", {"mode": "min"})


def test_a_scheduler_of_the_user_that_fails_is_named() -> None:
    with pytest.raises(MisconfigurationException, match="ScheduleLR: `scheduler` must make a scheduler"):
        fit(Recording(), ScheduleLR(lambda optimizer: None))


CONFIG = """
trainer:
  logger: false
  accelerator: cpu
  callbacks:
  - class_path: lightning_tuning.ScheduleLR
    init_args: {scheduler: CosineAnnealingLR, arguments: {eta_min: 0.001}, warmup: 0.1}
  - class_path: lightning_tuning.ScheduleLR
    init_args: {warmup: 5, when_scheduled: chain, optimizer: [0, 1]}
  - class_path: lightning_tuning.ScheduleLR
    init_args: {scheduler: torch.optim.lr_scheduler.LambdaLR, arguments: {lr_lambda: [math.exp]}}
  - class_path: lightning_tuning.MomentumSchedule
    init_args: {start: 0.4, over: 100, shape: cosine, nesterov: true}
"""


# LightningCLI calls jsonargparse by names that its newer versions have others for.
@pytest.mark.filterwarnings(r"ignore:(?s)\s+(By default only one Jsonargparse|.*was deprecated in v4)")
def test_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py"])
    (tmp_path / "run.yaml").write_text(CONFIG, encoding="utf-8")
    cli = LightningCLI(
        Mlp,
        run=False,
        seed_everything_default=False,
        save_config_callback=None,
        args=["--config", str(tmp_path / "run.yaml")],
    )
    tuning = [callback for callback in cli.trainer.callbacks if isinstance(callback, ScheduleLR | MomentumSchedule)]
    cosine, warmup, by_path, momentum = tuning
    assert (cosine.scheduler, cosine.arguments) == ("CosineAnnealingLR", {"eta_min": 0.001})
    assert cosine.timing["warmup"] == 0.1
    assert (warmup.scheduler, warmup.timing["warmup"], list(warmup.optimizers)) == (None, 5, [0, 1])
    assert isinstance(warmup.timing["warmup"], int)
    assert by_path.arguments == {"lr_lambda": ["math.exp"]}
    assert (momentum.start, momentum.over, momentum.shape, momentum.nesterov) == (0.4, 100, "cosine", True)


def test_pickled_with_a_class() -> None:
    callback = pickle.loads(pickle.dumps(ScheduleLR(lr_scheduler.CosineAnnealingLR, warmup=2)))
    net = Recording()
    fit(net, callback)
    assert net.rates == pytest.approx(warmed(2, STEPS), rel=1e-6)


class TestMixin:
    class Mixed(ScheduleLRMixin, Recording):
        def __init__(self, *arguments: Any, **timing: Any) -> None:
            super().__init__(lambda optimizer: self.with_schedule_lr(optimizer, *arguments, **timing))

    @pytest.mark.parametrize("interval", ["step", "epoch"])
    def test_it_is_the_callbacks_schedule(self, interval: Any) -> None:
        mixed, plain = self.Mixed("CosineAnnealingLR", warmup=0.2, interval=interval), Recording()
        fit(mixed)
        fit(plain, ScheduleLR("CosineAnnealingLR", warmup=0.2, interval=interval))
        assert mixed.rates == plain.rates
        assert len(set(mixed.rates)) > 1

    def test_without_a_trainer_the_length_has_to_be_given(self) -> None:
        with pytest.raises(ValueError, match="`T_max` must be given"):
            self.Mixed("CosineAnnealingLR").configure_optimizers()
        assert (
            self.Mixed("CosineAnnealingLR", {"T_max": 4}).configure_optimizers()["lr_scheduler"]["scheduler"].T_max == 4
        )

    def test_by_hand_it_is_the_callbacks(self) -> None:
        net = self.Mixed("CosineAnnealingLR")
        net.automatic_optimization = False
        with pytest.raises(MisconfigurationException, match=r"ScheduleLR\('CosineAnnealingLR', \.\.\.\)"):
            fit(net)


def test_a_batch_of_tensors_is_trained_on() -> None:
    """The rates are not only written down: the weights are those of a module that has the scheduler itself."""

    def weights(module: Recording, *callbacks: pl.Callback) -> list[Tensor]:
        fit(module, *callbacks)
        return [p.detach().clone() for p in module.parameters()]

    written = weights(Recording(lambda o: {"optimizer": o, "lr_scheduler": {
        "scheduler": lr_scheduler.CosineAnnealingLR(o, STEPS), "interval": "step"}}))  # fmt: skip
    put_in = weights(Recording(), ScheduleLR("CosineAnnealingLR"))
    assert all(torch.equal(a, b) for a, b in zip(written, put_in, strict=True))
