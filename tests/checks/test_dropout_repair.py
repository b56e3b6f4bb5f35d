"""`on_conflict="move"` and `"uout"`: the conflict is gone, names are not, and a resumed run has it done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lightning_tuning import DropoutBNConflictWarning, Journal
from lightning_tuning.functional import UOut
from lightning_tuning.functional.inserted_layers import inserted_layer
from tests.helpers import CLASSES, TinyModule, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:LT301:UserWarning", "ignore::lightning_tuning.TuningWarning")


def conv(i: int, o: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1)


class Images(TinyModule):
    shape = (1, 8, 8)

    def __init__(self, make: Callable[[], nn.Module], **kwargs: Any) -> None:
        self.make = [make]
        super().__init__(**{"lr": 0.01, "batches": 3, **kwargs})

    def build(self) -> nn.Module:
        return self.make[0]()


def plain() -> nn.Sequential:
    """The dropout at 2 feeds the norms at 4 and 7."""
    return nn.Sequential(
        conv(1, 4), nn.ReLU(), nn.Dropout(0.4), conv(4, 4), nn.BatchNorm2d(4), nn.LeakyReLU(), conv(4, 4),
        nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def run(make: Callable[[], nn.Module], on_conflict: Any, **settings: Any) -> tuple[Images, list[str], pl.Trainer]:
    model = Images(make)
    ckpt_path = settings.pop("ckpt_path", None)
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=[DropoutBNConflictWarning(on_conflict)], **settings)
    trainer.fit(model, ckpt_path=ckpt_path)
    return model, Journal.of(trainer).notes, trainer


def test_it_moves_behind_the_last_batch_norm_of_its_sequential() -> None:
    model, notes, _ = run(plain, "move")
    assert "moved the dropout `net.2` behind the batch norm `net.7`, the last of its Sequential." in notes
    assert model.net[2].p == 0
    moved = inserted_layer(model.net[7], "behind")
    assert isinstance(moved, nn.Dropout)
    assert moved.p == 0.4
    assert [*model.state_dict()] == [*Images(plain).state_dict()]
    assert model.net[7].inserted_behind is not model.net[2]


def test_it_trains_as_a_net_that_was_built_so() -> None:
    """From the second batch on, which is the first of the resumed run."""

    def by_hand() -> nn.Sequential:
        net = plain()
        net[2].p = 0.0
        net[8] = nn.Sequential(nn.Dropout(0.4), nn.ReLU())
        return net

    x = torch.randn(6, 1, 8, 8)
    model, _, _ = run(plain, "move")
    other = Images(by_hand)
    other.load_state_dict(model.state_dict())
    outputs = []
    for net in (model, other):
        torch.manual_seed(1)
        outputs.append(net.train()(x))
    assert torch.equal(*outputs)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_the_next_run_finds_no_conflict() -> None:
    for on_conflict in ("move", "uout"):
        model, _, _ = run(plain, on_conflict)
        trainer = quiet_trainer(callbacks=[DropoutBNConflictWarning("raise")])
        trainer.fit(model)
        assert Journal.of(trainer).findings == []


def test_uout_takes_its_place() -> None:
    model, notes, _ = run(plain, "uout")
    assert "replaced the dropout `net.2`, which feeds a batch norm, by uniform noise (UOut)." in notes
    assert isinstance(model.net[2], UOut)
    assert model.net[2].training
    assert [*model.state_dict()] == [*Images(plain).state_dict()]


class Seen(pl.Callback):
    """Which dropouts and noises each batch was trained with, and where."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        active = [n for n, m in pl_module.named_modules() if isinstance(m, UOut) or getattr(m, "p", 0)]
        self.batches.append(active)


@pytest.mark.parametrize(("on_conflict", "name"), [("move", "net.7.inserted_behind"), ("uout", "net.2")])
def test_a_resumed_run_has_it_before_its_first_batch(on_conflict: Any, name: str, tmp_path: Path) -> None:
    _, _, trainer = run(plain, on_conflict)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert torch.load(tmp_path / "half.ckpt", weights_only=True)["lightning_tuning"]["DropoutBNConflictWarning"]
    seen, model = Seen(), Images(plain)
    callbacks = [DropoutBNConflictWarning(on_conflict), seen]
    quiet_trainer(callbacks=callbacks, max_epochs=2).fit(model, ckpt_path=tmp_path / "half.ckpt")
    assert seen.batches == [[name]] * 3
    other = Images(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))  # the same callback, another model
    callback = DropoutBNConflictWarning(on_conflict)
    callback.load_tuning_state({"disabled": [], "moved": {"net.2": "net.7"}, "replaced": ["net.2"]})
    callback.on_train_start(quiet_trainer(), other)


def test_several_become_one_of_the_largest_rate() -> None:
    def make() -> nn.Sequential:
        net = plain()
        net[5] = nn.Dropout(0.6)
        return net

    model, notes, _ = run(make, "move")
    moved = inserted_layer(model.net[7], "behind")
    assert isinstance(moved, nn.Dropout)
    assert (model.net[2].p, model.net[5].p, moved.p) == (0, 0, 0.6)
    assert len(model.net[7]._forward_hooks) == 1
    assert sum("moved the dropout" in note for note in notes) == 2


def test_where_a_dropout_follows_anyway_it_is_only_disabled() -> None:
    def make() -> nn.Sequential:
        net = plain()
        net[9] = nn.Sequential(nn.AdaptiveAvgPool2d(2))
        net[8] = nn.Dropout(0.5)
        return net

    model, notes, _ = run(make, "move")
    assert inserted_layer(model.net[7], "behind") is None
    assert (model.net[2].p, model.net[8].p) == (0, 0.5)
    assert any("disabled the dropout `net.2`: another dropout (p=0.5) follows `net.7`" in note for note in notes)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.norm, self.head = nn.Dropout(0.3), nn.BatchNorm2d(1), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.drop(x)).flatten(1))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)


def functional() -> nn.Module:
    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.3, self.training)

    return nn.Sequential(Drops(), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def twice() -> nn.Module:
    drop = nn.Dropout(0.3)
    return nn.Sequential(conv(1, 2), drop, conv(2, 2), drop, nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, CLASSES))


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no Sequential": (Branch, "`net` is no nn.Sequential"),
    "functional": (functional, "it is functional"),
    "two places": (twice, "it is used at several places"),
    "a module of one's own between": (
        lambda: nn.Sequential(nn.Dropout(), Doubled(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, CLASSES)),
        "`1` (Doubled) stands between",
    ),
    "the norm is elsewhere": (
        lambda: nn.Sequential(nn.Sequential(nn.Dropout()), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
        "its batch norm is not in its Sequential",
    ),
    "another norm follows elsewhere": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1)), conv(1, 1), nn.BatchNorm2d(1), nn.Flatten(),
            nn.Linear(64, CLASSES),
        ),
        "another batch norm follows `net.0.1`",
    ),
    "channels and a flat norm": (
        lambda: nn.Sequential(
            conv(1, 2), nn.Dropout2d(), nn.Flatten(), nn.BatchNorm1d(128), nn.Linear(128, CLASSES)
        ),
        "`2` changes the shape that Dropout2d drops channels of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_where_it_is_not_safe_it_is_left_and_the_reason_said(case: str) -> None:
    make, reason = LEFT[case]
    model, notes, _ = run(make, "move")
    assert any("left the dropout" in note and reason in note for note in notes), notes
    rates = [m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    assert rates == [m.p for m in Images(make).modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    assert not any(module._forward_hooks for module in model.modules())


def test_uout_leaves_functional_dropout_and_reaches_all_places_of_a_module() -> None:
    _, notes, _ = run(functional, "uout")
    assert any("could not replace the functional dropout at" in note for note in notes)
    model, notes, _ = run(twice, "uout")
    assert model.net[1] is model.net[3]
    assert isinstance(model.net[1], UOut)
    assert sum("replaced" in note for note in notes) == 1
