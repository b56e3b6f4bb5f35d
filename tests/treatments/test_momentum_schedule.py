"""The momentum that every update of a run has: by Lightning, by hand, with several optimizers; what is refused."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import lr_scheduler

from lightning_tuning.findings import Journal
from lightning_tuning.functional.momentum_schedule import momentum_at
from lightning_tuning.treatments import MomentumSchedule, ScheduleLR
from tests.helpers import ManualGAN, Mlp, quiet_trainer


class Recording(Mlp):
    """Knows what the optimizers really had in each update."""

    def __init__(self, optimizer: Any = None, scheduler: Any = None) -> None:
        super().__init__()
        self.make, self.scheduler = optimizer, scheduler
        self.momenta: list[float] = []

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers() if self.make is None else self.make(self.parameters())
        watch(optimizer, self.momenta)
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


def watch(optimizer: torch.optim.Optimizer, momenta: list[float]) -> None:
    def look(optimizer: Any, *_: Any) -> None:
        momenta.extend(group.get("momentum", group.get("betas", [None])[0]) for group in optimizer.param_groups)

    optimizer.register_step_post_hook(look)


def fit(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 2, **settings})
    trainer.fit(module)
    return trainer


def ramp(over: int, updates: int, **arguments: Any) -> list[float]:
    return [momentum_at(step, over=over, **arguments) for step in range(updates)]


@pytest.mark.parametrize(
    ("arguments", "over", "curve"),
    [
        ({"over": 5}, 5, {}),
        ({"over": 0.5}, 8, {}),
        ({"over": 1.0}, 16, {}),
        ({}, 2, {}),
        ({"start": 0.95, "end": 0.2, "over": 0.25}, 4, {"start": 0.95, "end": 0.2}),
        ({"over": 7, "shape": "cosine"}, 7, {"shape": "cosine"}),
        ({"shape": "sutskever"}, 1, {"shape": "sutskever"}),
    ],
)
def test_each_update_has_its_momentum(arguments: dict[str, Any], over: int, curve: dict[str, Any]) -> None:
    net = Recording()
    fit(net, MomentumSchedule(**arguments))
    assert net.momenta == ramp(over, 16, **curve)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, 1e-2),
        lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
        lambda p: torch.optim.RMSprop(p, 1e-3),
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.3, nesterov=True, fused=True),
    ],
    ids=["AdamW", "AdamW fused", "RMSprop", "SGD without", "SGD fused"],
)
def test_in_every_optimizer(optimizer: Any) -> None:
    net = Recording(optimizer)
    fit(net, MomentumSchedule(over=6))
    assert net.momenta == ramp(6, 16)


def test_the_weights_are_those_of_momentum_set_by_hand() -> None:
    class Sets(Recording):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            optimizer.param_groups[0]["momentum"] = 0.5 + 0.4 * min(1.0, self.global_step / 10)

    by_hand, treated = Sets(), Recording()
    fit(by_hand)
    fit(treated, MomentumSchedule(over=10))
    assert by_hand.momenta == pytest.approx(treated.momenta)
    for ours, theirs in zip(treated.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_whatever_else_set_it_before() -> None:
    class Meddles(Recording):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.trainer.optimizers[0].param_groups[0]["momentum"] = 0.123

    net = Meddles()
    fit(net, MomentumSchedule(over=5))
    assert net.momenta == ramp(5, 16)


def test_accumulation_counts_updates() -> None:
    net = Recording()
    fit(net, MomentumSchedule(over=0.5), accumulate_grad_batches=3)
    assert net.momenta == ramp(3, 6)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16-mixed"},
        {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0))]},
    ],
    ids=["bf16", "scaler"],
)
def test_precision_of_halves(settings: dict[str, Any]) -> None:
    net = Recording()
    fit(net, MomentumSchedule(over=5), **settings)
    assert net.momenta == ramp(5, 16)


class Gan(ManualGAN):
    """The discriminator is trained twice in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.momenta: list[list[float]] = [[], []]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        discriminator, _ = self.optimizers()
        super().training_step(batch, batch_idx)
        discriminator.step()

    def configure_optimizers(self) -> Any:
        optimizers = super().configure_optimizers()
        for optimizer, momenta in zip(optimizers, self.momenta, strict=True):
            watch(optimizer, momenta)
        return optimizers


@pytest.mark.parametrize(("optimizer", "picked"), [(None, (0, 1)), (1, (1,)), ([0], (0,))])
def test_by_hand_each_optimizer_counts_its_own_updates(optimizer: Any, picked: tuple[int, ...]) -> None:
    net = Gan()
    fit(net, MomentumSchedule(start=0.1, over=9, optimizer=optimizer), max_epochs=1)
    for index, updates in enumerate((16, 8)):
        expected = ramp(9, updates, start=0.1) if index in picked else [0.5] * updates
        assert net.momenta[index] == expected


class TestNesterov:
    def test_it_is_set(self) -> None:
        net = Recording()
        trainer = fit(net, MomentumSchedule(over=5, nesterov=True))
        assert all(group["nesterov"] for group in trainer.optimizers[0].param_groups)
        assert "costs nothing" not in Journal.of(trainer).notes[0]
        plain = Recording(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True))
        fit(plain, MomentumSchedule(over=5))
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))

    @pytest.mark.parametrize(
        ("optimizer", "end", "is_said"),
        [
            (None, 0.9, True),
            (None, 0.8, False),
            (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True), 0.9, False),
            (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1), 0.9, False),
            (torch.optim.Adam, 0.9, False),
        ],
    )
    def test_it_is_advised_where_it_can_be_had(self, optimizer: Any, end: float, is_said: bool) -> None:
        trainer = fit(Recording(optimizer), MomentumSchedule(end=end, over=5))
        (note,) = Journal.of(trainer).notes
        assert note.startswith(f"MomentumSchedule takes the momentum from 0.5 to {end} over 5 updates")
        assert ("`nesterov=True` costs nothing" in note) is is_said

    @pytest.mark.parametrize(
        ("optimizer", "message"),
        [
            (torch.optim.Adam, "Adam has none, only SGD has"),
            (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1), "only with `dampening=0`"),
        ],
    )
    def test_it_is_refused_where_it_cannot(self, optimizer: Any, message: str) -> None:
        with pytest.raises(MisconfigurationException, match=message):
            fit(Recording(optimizer), MomentumSchedule(nesterov=True))


class TestRefused:
    def test_without_momentum(self) -> None:
        with pytest.raises(MisconfigurationException, match="Adagrad has no momentum"):
            fit(Recording(torch.optim.Adagrad), MomentumSchedule())

    def test_rmsprop_from_nothing(self) -> None:
        with pytest.raises(MisconfigurationException, match="Begin a little above it"):
            fit(Recording(torch.optim.RMSprop), MomentumSchedule(0.0))
        net = Recording(lambda p: torch.optim.SGD(p, 0.1))
        fit(net, MomentumSchedule(0.0, over=4))
        assert net.momenta == ramp(4, 16, start=0.0)

    @pytest.mark.parametrize(
        "scheduler",
        [
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.ConstantLR(o), lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4)], [3]
            ),
        ],
    )
    @pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")
    def test_where_a_schedule_cycles_it(self, scheduler: Any) -> None:
        with pytest.raises(MisconfigurationException, match=r"(OneCycle|Cyclic)LR cycles the momentum of SGD already"):
            fit(Recording(scheduler=scheduler), MomentumSchedule())

    @pytest.mark.parametrize("by_hand", [False, True])
    def test_where_schedule_lr_does(self, by_hand: bool) -> None:
        net = Recording()
        net.automatic_optimization = not by_hand
        with pytest.raises(MisconfigurationException, match="OneCycleLR cycles the momentum of SGD already"):
            fit(net, MomentumSchedule(), ScheduleLR("OneCycleLR"))

    def test_one_that_leaves_it_alone_is_welcome(self) -> None:
        net = Recording()
        fit(net, MomentumSchedule(over=5), ScheduleLR("OneCycleLR", {"cycle_momentum": False}))
        assert net.momenta == ramp(5, 16)

    def test_a_share_of_no_known_length(self) -> None:
        settings: dict[str, Any] = {"max_epochs": -1, "max_time": "00:00:00:05"}
        with pytest.raises(MisconfigurationException, match=r"\(over=0.5\): this run has no known length"):
            fit(Recording(), MomentumSchedule(over=0.5), **settings)

    def test_an_index_too_many(self) -> None:
        with pytest.raises(MisconfigurationException, match=r"optimizer=1\): `configure_optimizers` returned 1"):
            fit(Recording(), MomentumSchedule(optimizer=1))

    def test_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"`nesterov` must be None or True, got False\."):
            MomentumSchedule(nesterov=False)
        with pytest.raises(ValueError, match=r"`end` must be at least 0 and less than 1, got 1\.0\."):
            MomentumSchedule(end=1.0)


def test_a_second_fit_begins_anew() -> None:
    callback = MomentumSchedule(over=5)
    for _ in range(2):
        net = Recording()
        fit(net, callback)
        assert net.momenta == ramp(5, 16)
