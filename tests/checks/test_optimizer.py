"""OptimizerCheck in real runs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning import Finding, Journal, TuningWarning
from lightning_tuning.checks import OptimizerCheck
from lightning_tuning.monitors import GradientExplosionMonitor
from tests.helpers import CLASSES, MODEL_KINDS, ManualGAN, Mlp, TinyModule, TransformerNet, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


def findings_of(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> list[Finding]:
    trainer = quiet_trainer(callbacks=[OptimizerCheck(), *callbacks], **settings)
    trainer.fit(module)
    return Journal.of(trainer).findings


def said(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.code, str(finding.severity), finding.where) for finding in findings]


class Scaled(Mlp):
    """An Mlp with a learned scale, whose optimizer gets what ``choose(module)`` gives."""

    def __init__(self, choose: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(()))
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.choose(self), lr=self.lr, momentum=0.9)


def only_the_net(module: Any) -> Any:
    return module.net.parameters()


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_healthy_models(kind: type[TinyModule]) -> None:
    assert findings_of(kind()) == []


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 1.0}, {"max_epochs": 2}],
    ids=str,
)
def test_a_forgotten_parameter(settings: dict[str, Any]) -> None:
    assert said(findings_of(Scaled(only_the_net), **settings)) == [("LT401", "error", "scale")]


def test_it_warns() -> None:
    trainer = quiet_trainer(callbacks=[OptimizerCheck()])
    with pytest.warns(TuningWarning, match="LT401"):
        trainer.fit(Scaled(only_the_net))


def test_in_a_compiled_net() -> None:
    module = Scaled(only_the_net)
    module.net = torch.compile(module.net, backend="eager")
    assert said(findings_of(module)) == [("LT401", "error", "scale")]


def test_a_resumed_run_says_it_once(tmp_path: Path) -> None:
    path = tmp_path / "half.ckpt"
    trainer = quiet_trainer(callbacks=[OptimizerCheck()])
    trainer.fit(Scaled(only_the_net))
    trainer.save_checkpoint(path)
    again = quiet_trainer(callbacks=[OptimizerCheck()], max_epochs=2)
    again.fit(Scaled(only_the_net), ckpt_path=path)
    assert [(f.code, f.count, f.step) for f in Journal.of(again).findings] == [("LT401", 1, 1)]


def test_twice_in_a_row() -> None:
    check = OptimizerCheck()
    for _ in range(2):
        trainer = quiet_trainer(callbacks=[check])
        trainer.fit(Scaled(only_the_net))
        assert said(Journal.of(trainer).findings) == [("LT401", "error", "scale")]


def test_an_optimizer_of_ones_own() -> None:
    """A parameter that the user moves by hand, or by an optimizer that Lightning does not know, is not forgotten."""

    class ByHand(Scaled):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            with torch.no_grad():
                self.scale -= 0.01 * self.scale.grad
            self.scale.grad = None

    assert findings_of(ByHand(only_the_net)) == []


class Manual(Scaled):
    """The same by hand, stepping every second batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        self.manual_backward(F.cross_entropy(self(x), y))
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def test_manual_optimization() -> None:
    assert said(findings_of(Manual(only_the_net))) == [("LT401", "error", "scale")]
    assert findings_of(Manual(lambda module: module.parameters())) == []


def test_lbfgs() -> None:
    class Newton(Scaled):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.choose(self), lr=0.1, max_iter=3)

    assert findings_of(Newton(lambda module: module.parameters())) == []
    assert said(findings_of(Newton(only_the_net))) == [("LT401", "error", "scale")]


def test_no_optimizer_at_all() -> None:
    class Untrained(Mlp):
        def configure_optimizers(self) -> None:
            return None

    with pytest.warns(UserWarning, match="will run with no optimizer"):
        assert findings_of(Untrained()) == []


@pytest.mark.parametrize("settings", [{"foreach": True}, {"fused": True}, {"capturable": False, "amsgrad": True}])
def test_implementations(settings: dict[str, Any]) -> None:
    class Implemented(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2, **settings)

    assert findings_of(Implemented()) == []


class Lazy(TinyModule):
    """Its layers learn their sizes from the first batch."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES))

    def setup(self, stage: str) -> None:
        self.hidden: list[nn.Module] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[2].parameters() if self.lr < 0 else self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize(("lr", "expected"), [(0.1, []), (-1.0, [("LT401", "info", "net.0")])])
@pytest.mark.filterwarnings("ignore:.*Lazy:UserWarning", "ignore:.*uninitialized parameters:UserWarning")
def test_lazy_layers(lr: float, expected: list[Any]) -> None:
    assert said(findings_of(Lazy(lr), num_sanity_val_steps=0)) == expected


class LoRA(TinyModule):
    """A frozen layer with a low-rank update, and a head that is trained."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.net["base"].requires_grad_(not frozen)
        self.down = nn.Parameter(0.1 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
        self.up = nn.Parameter(torch.zeros(16, 2))

    def build(self) -> nn.Module:
        return nn.ModuleDict({"base": nn.Linear(8, 16), "head": nn.Linear(16, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](F.relu(self.net["base"](x) + x @ self.down.T @ self.up.T))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([self.down, self.up, *self.net["head"].parameters()], lr=1e-2)


def test_lora() -> None:
    assert findings_of(LoRA(frozen=True)) == []
    assert said(findings_of(LoRA(frozen=False))) == [("LT401", "info", "net.base")]


class Averaged(TinyModule):
    """A student with a teacher of averaged weights: registered, or kept out of the checkpoint in a list."""

    def __init__(self, *, in_a_list: bool) -> None:
        super().__init__()
        teacher = copy.deepcopy(self.net)
        self.teacher: Any = [teacher] if in_a_list else teacher

    def build(self) -> nn.Module:
        return nn.Linear(8, CLASSES)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        teacher = self.teacher[0] if isinstance(self.teacher, list) else self.teacher
        with torch.no_grad():
            target = teacher(x).softmax(-1)
        return F.cross_entropy(self(x), y) + F.cross_entropy(self(x), target)

    def on_train_batch_end(self, *args: Any) -> None:
        teacher = self.teacher[0] if isinstance(self.teacher, list) else self.teacher
        with torch.no_grad():
            for average, new in zip(teacher.parameters(), self.net.parameters(), strict=True):
                average.lerp_(new, 0.01)


@pytest.mark.parametrize("in_a_list", [False, True])
def test_a_teacher_is_nobodys_loss(in_a_list: bool) -> None:
    assert findings_of(Averaged(in_a_list=in_a_list)) == []


class ActorCritic(ManualGAN):
    """Two optimizers share an encoder on purpose."""

    def build(self) -> nn.Module:
        return nn.ModuleDict({"encoder": nn.Linear(8, 8), "actor": nn.Linear(8, CLASSES), "critic": nn.Linear(8, 1)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["actor"](self.net["encoder"](x).tanh())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        for optimizer, head in zip(self.optimizers(), ("actor", "critic"), strict=True):
            out = self.net[head](self.net["encoder"](x).tanh())
            loss = F.cross_entropy(out, y) if head == "actor" else F.mse_loss(out[:, 0], y.float())
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        shared = list(self.net["encoder"].parameters())
        return [torch.optim.Adam(itertools.chain(shared, self.net[h].parameters())) for h in ("actor", "critic")]


def test_a_shared_encoder_is_no_error() -> None:
    assert said(findings_of(ActorCritic())) == [("LT402", "info", "Adam 0, Adam 1")]


class Toggled(ManualGAN):
    """Each network alone has gradients while its optimizer works."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        for number, optimizer in enumerate(self.optimizers()):
            self.toggle_optimizer(optimizer)
            fake = self.net["generator"](torch.randn(len(x), self.latent))
            loss = F.softplus(-self(x)).mean() + F.softplus(self(fake.detach())).mean()
            loss = loss if number == 0 else F.softplus(-self(fake)).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def test_toggled_optimizers() -> None:
    assert findings_of(Toggled()) == []


class Warmed(ManualGAN):
    """Adam first, L-BFGS for the end: over the same parameters, never in one batch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()[batch_idx // 4]
        optimizer.zero_grad()
        self.manual_backward(F.softplus(-self(batch[0])).mean())
        optimizer.step()

    def configure_optimizers(self) -> Any:
        parameters = list(self.net["discriminator"].parameters())
        return [torch.optim.Adam(parameters), torch.optim.SGD(parameters, lr=0.1)]


def test_one_optimizer_after_the_other() -> None:
    assert findings_of(Warmed()) == []


class Flat(Mlp):
    """Learns nothing: its loss stays what it is."""

    def __init__(self, make: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(batches=220, batch_size=2, **kwargs)
        self.make = make

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 1 + 0 * self(batch[0]).sum()

    def configure_optimizers(self) -> Any:
        return self.make(self)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda m: torch.optim.Adam(m.parameters(), lr=0.011), ("LT408", "warning", "Adam group 0")),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.01), ("LT407", "info", "SGD group 0")),
        (lambda m: torch.optim.Adam(m.parameters(), 1e-3, weight_decay=1e-2), ("LT405", "info", "Adam group 0")),
    ],
)
def test_a_run_that_does_not_learn_hears_more(make: Any, expected: tuple[str, str, str]) -> None:
    assert expected in said(findings_of(Flat(make), GradientExplosionMonitor(), limit_val_batches=0))


class Learns(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02, weight_decay=1e-4)


def test_a_run_that_learns_hears_no_advice() -> None:
    module = Learns(batches=120, batch_size=16)
    heard = said(findings_of(module, GradientExplosionMonitor(), limit_val_batches=0))
    assert [finding for finding in heard if finding[0] < "LT5"] == [("LT408", "info", "Adam group 0")]


def test_advice_is_for_runs_whose_outcome_is_known() -> None:
    class PlainGAN(ManualGAN):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net[name].parameters(), lr=0.01) for name in ("discriminator", "generator")]

    assert findings_of(PlainGAN()) == []


def test_accumulation_counts_for_the_batch() -> None:
    class Fast(Mlp):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)

    once = findings_of(Fast(batches=4, batch_size=64))
    assert [(f.code, f.evidence["batch_size"]) for f in once] == [("LT413", 64)]
    assert findings_of(Fast(batches=8, batch_size=64), accumulate_grad_batches=8) == []


def test_adamw_of_a_transformer_has_the_usual_decay() -> None:
    assert findings_of(TransformerNet(), max_epochs=3) == []
