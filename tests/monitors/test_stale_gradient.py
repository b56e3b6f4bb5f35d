"""``StaleGradientMonitor``: loops that forget to set gradients back, and all the ways not to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning import Finding, Journal, Severity, StaleGradientMonitor, TuningError, TuningSuite
from lightning_tuning.monitors._gradient_trail import Trail
from lightning_tuning.runtime import Desk
from tests.contracts.test_bit_identity import assert_identical
from tests.contracts.test_bit_identity import fit as fit_to_the_end
from tests.helpers import CLASSES, ManualGAN, Mlp, TinyModule, quiet_trainer


class Manual(Mlp):
    """``loop(module, loss_of, optimizer, batch, index)`` is the training step."""

    def __init__(self, loop: Callable[..., None], **settings: Any) -> None:
        super().__init__(lr=1e-3, batches=24, **settings)
        self.automatic_optimization = False
        self.loop = [loop]  # not a method

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.loop[0](self, lambda: F.cross_entropy(self(x), y), self.optimizers(), batch_idx)


def fit(model: pl.LightningModule, *, monitor: Any = None, **settings: Any) -> tuple[list[Finding], list[str]]:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=[monitor or StaleGradientMonitor()], **{"limit_val_batches": 0, **settings})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        trainer.fit(model)
    for optimizer in trainer.optimizers:
        assert not optimizer._optimizer_step_post_hooks
    journal = Journal.of(trainer)
    return journal.findings, journal.notes


# ---------------------------------------------------------------------------------------------- loops that forget


def never(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    module.manual_backward(loss())
    optimizer.step()


def never_accumulating(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    module.manual_backward(loss() / 3)
    if index % 3 == 2:
        optimizer.step()


def never_clipping(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    module.manual_backward(loss())
    module.clip_gradients(optimizer, gradient_clip_val=100.0)
    optimizer.step()


def never_in_a_closure(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    optimizer.step(closure=lambda: module.manual_backward(loss()))


def steps_while_accumulating(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    module.manual_backward(loss())
    optimizer.step()
    if index % 8 == 7:
        optimizer.zero_grad()


def zero_after_backward_of_another(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    """Sets back what it holds no longer."""
    [torch.zeros_like(p).zero_() for p in module.parameters()]
    never(module, loss, optimizer, index)


BUGS = [
    never,
    never_accumulating,
    never_clipping,
    never_in_a_closure,
    steps_while_accumulating,
    zero_after_backward_of_another,
]


@pytest.mark.parametrize("loop", BUGS, ids=lambda loop: loop.__name__)
def test_a_loop_that_forgets(loop: Any) -> None:
    findings, _ = fit(Manual(loop))
    (finding,) = findings
    assert (finding.code, finding.where, finding.severity) == ("LT607", "SGD", Severity.ERROR)
    assert finding.evidence["parameters"] == finding.evidence["of"] == 6
    assert "zero_grad()" in finding.remedy


def test_half_of_the_parameters() -> None:
    def loop(module: Any, loss: Any, optimizer: Any, index: int) -> None:
        module.net[0].zero_grad()
        never(module, loss, optimizer, index)

    (finding,), _ = fit(Manual(loop))
    assert finding.evidence["parameters"] == 4
    assert "`net.2.weight`" in finding.message
    assert "`net.0.weight`" not in finding.message


class ForgetfulGAN(ManualGAN):
    """Sets the gradients of one optimizer back."""

    def __init__(self, forgets: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.forgets = forgets

    def optimizers(self, *args: Any, **kwargs: Any) -> Any:
        optimizers = super().optimizers(*args, **kwargs)
        optimizers[self.forgets].zero_grad = lambda *_, **__: None  # on the wrapper alone, for all that it is worth
        return optimizers


@pytest.mark.parametrize("forgets", [0, 1])
def test_one_of_two_optimizers(forgets: int) -> None:
    (finding,), _ = fit(ForgetfulGAN(forgets))
    assert (finding.code, finding.where) == ("LT607", f"Adam {forgets}")


class Automatic(Mlp):
    """Lightning steps; gradients are this module's business."""

    def __init__(self, clear: Callable[[Any, int], None] | None = None) -> None:
        super().__init__(lr=1e-3, batches=24)
        self.clear = [clear]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self.clear[0] is not None:
            self.clear[0](optimizer, batch_idx)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 50.0}], ids=str)
def test_automatic_optimization_with_an_empty_zero_grad(settings: dict[str, Any]) -> None:
    (finding,), _ = fit(Automatic(), **settings)
    assert finding.code == "LT607"
    assert "`optimizer_zero_grad`" in finding.remedy


class Forgets(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


def test_an_optimizer_with_an_empty_zero_grad() -> None:
    model = Mlp(batches=8)
    model.configure_optimizers = lambda: Forgets(model.parameters(), lr=1e-3)
    (finding,), _ = fit(model)
    assert (finding.code, finding.where) == ("LT607", "Forgets")


# ------------------------------------------------------------------------------------------------- healthy loops


def at_the_start(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    optimizer.zero_grad()
    never(module, loss, optimizer, index)


def at_the_start_to_zero(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    never(module, loss, optimizer, index)


def at_the_end(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    never(module, loss, optimizer, index)
    optimizer.zero_grad()


def at_the_end_to_zero(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    never(module, loss, optimizer, index)
    optimizer.zero_grad(set_to_none=False)


def by_the_module(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    module.zero_grad()
    never(module, loss, optimizer, index)


def by_hand(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    never(module, loss, optimizer, index)
    for parameter in module.parameters():
        parameter.grad.zero_()


def by_data(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    """As in code of 2017; no version counter shows it."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()
    never(module, loss, optimizer, index)


def by_data_between_two_losses(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    """The first backward pass is for other eyes."""
    module.manual_backward(loss())
    for parameter in module.parameters():
        parameter.grad.data.zero_()
    never(module, loss, optimizer, index)


def by_another_tensor(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    never(module, loss, optimizer, index)


def accumulating(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    if index % 3 == 0:
        optimizer.zero_grad(set_to_none=index % 2 == 0)
    never_accumulating(module, loss, optimizer, index)


def two_losses(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    module.manual_backward(loss())
    never(module, loss, optimizer, index)


def two_steps_from_one_gradient(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    optimizer.zero_grad()
    never(module, loss, optimizer, index)
    optimizer.step()
    optimizer.step()


def kept_on_purpose(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    """Momentum by hand: what is left of the old gradients is scaled."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0.5)
    never(module, loss, optimizer, index)


def in_a_closure(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    def closure() -> None:
        optimizer.zero_grad()
        module.manual_backward(loss())

    optimizer.step(closure=closure)


def sharpness_aware(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    """Two backward passes for an update, the first of which moves the weights and is forgotten."""
    optimizer.zero_grad(set_to_none=False)
    module.manual_backward(loss())
    moves = [0.01 * p.grad for p in module.parameters()]
    with torch.no_grad():
        torch._foreach_add_(list(module.parameters()), moves)
    optimizer.zero_grad(set_to_none=False)
    module.manual_backward(loss())
    with torch.no_grad():
        torch._foreach_sub_(list(module.parameters()), moves)
    optimizer.step()


def now_and_then_not(module: Any, loss: Any, optimizer: Any, index: int) -> None:
    """Two updates from what was added up, and then none."""
    if index % 3 == 0:
        optimizer.zero_grad()
    never(module, loss, optimizer, index)


HEALTHY = [
    at_the_start, at_the_start_to_zero, at_the_end, at_the_end_to_zero, by_the_module, by_hand, by_data,
    by_data_between_two_losses, by_another_tensor, accumulating, two_losses, two_steps_from_one_gradient,
    kept_on_purpose, in_a_closure, sharpness_aware, now_and_then_not,
]  # fmt: skip


@pytest.mark.parametrize("loop", HEALTHY, ids=lambda loop: loop.__name__)
def test_a_loop_that_sets_back(loop: Any) -> None:
    assert fit(Manual(loop)) == ([], [])


class ToggledGAN(ManualGAN):
    """The generator's turn comes every third batch, gradients are set back to zero after the turn, and optimizers are
    toggled, so that neither turn adds to the other's."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        optimizers = self.optimizers()
        turn = int(batch_idx % 3 == 2)
        self.toggle_optimizer(optimizers[turn])
        fake = self.net["generator"](torch.randn(len(x), self.latent))
        loss = F.softplus(-self(fake)).mean() if turn else F.softplus(-self(x)).mean() + F.softplus(self(fake)).mean()
        self.manual_backward(loss)
        optimizers[turn].step()
        optimizers[turn].zero_grad(set_to_none=False)
        self.untoggle_optimizer(optimizers[turn])


class LeakyGAN(ManualGAN):
    """Each turn adds to the other's gradients, which are set back, to zero, before their own: many a script does so."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        optimizer_d, optimizer_g = self.optimizers()
        fake = self.net["generator"](torch.randn(len(x), self.latent))
        optimizer_d.zero_grad(set_to_none=False)
        self.manual_backward(F.softplus(-self(x)).mean() + F.softplus(self(fake)).mean(), retain_graph=True)
        fake = self.net["generator"](torch.randn(len(x), self.latent))
        optimizer_d.step()
        optimizer_g.zero_grad(set_to_none=False)
        self.manual_backward(F.softplus(-self(fake)).mean())
        optimizer_g.step()


class LeakyDataGAN(LeakyGAN):
    """The same by ``.data``."""

    def optimizers(self, *args: Any, **kwargs: Any) -> Any:
        optimizers = super().optimizers(*args, **kwargs)
        for optimizer in optimizers:

            def clear(set_to_none: bool = False, *, groups: Any = optimizer.optimizer.param_groups) -> None:
                for parameter in groups[0]["params"]:
                    if parameter.grad is not None:
                        parameter.grad.data.zero_()

            optimizer.zero_grad = clear
        return optimizers


class SharedTrunk(TinyModule):
    """Two losses, two optimizers, and a trunk that both of them hold."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(1e-3, **settings)
        self.automatic_optimization = False

    def build(self) -> nn.Module:
        return nn.ModuleDict({"trunk": nn.Linear(8, 8), "one": nn.Linear(8, CLASSES), "two": nn.Linear(8, 1)})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        one, two = self.optimizers()
        features = F.relu(self.net["trunk"](x))
        self.manual_backward(F.cross_entropy(self.net["one"](features), y), retain_graph=True)
        one.step()
        features = F.relu(self.net["trunk"](x))
        self.manual_backward(self.net["two"](features).square().mean())
        two.step()
        self.zero_grad(set_to_none=batch_idx % 2 == 0)

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD([*self.net["trunk"].parameters(), *self.net[head].parameters()], lr=self.lr)
            for head in ("one", "two")
        ]


@pytest.mark.parametrize("kind", [ManualGAN, ToggledGAN, LeakyGAN, LeakyDataGAN, SharedTrunk])
def test_several_optimizers(kind: type[TinyModule]) -> None:
    assert fit(kind(batches=16)) == ([], [])


def by_zero_grad(optimizer: Any, index: int) -> None:
    optimizer.zero_grad(set_to_none=False)


def now_and_then(optimizer: Any, index: int) -> None:
    if index % 3 == 0:
        optimizer.zero_grad()


@pytest.mark.parametrize("clear", [by_zero_grad, now_and_then], ids=lambda clear: clear.__name__)
def test_a_zero_grad_of_the_modules_own_that_works(clear: Any) -> None:
    assert fit(Automatic(clear)) == ([], [])


def test_automatic_optimization_that_is_set_back_in_another_hook() -> None:
    class Elsewhere(Automatic):
        def on_train_batch_end(self, *_: Any) -> None:
            self.zero_grad()

    assert fit(Elsewhere()) == ([], [])


# ---------------------------------------------------------------------------------------------------- and besides


def test_lightnings_own_zero_grad_costs_nothing() -> None:
    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step > 1:  # the desk has had its first batch
                assert not trainer.optimizers[0]._optimizer_step_post_hooks
                for callback in (monitor, Desk.of(trainer)):
                    assert callback.on_before_backward is callback.on_after_backward is None

    monitor = StaleGradientMonitor()
    quiet_trainer(callbacks=[monitor, Look()]).fit(Mlp())


def test_watched_are_the_first_updates_of_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    watched = Trail.on_update

    def on_update(self: Trail) -> bool:
        seen.append(self.updates)
        return watched(self)

    monkeypatch.setattr(Trail, "on_update", on_update)
    assert fit(Manual(at_the_start), monitor=StaleGradientMonitor(6), max_epochs=3) == ([], [])
    assert seen == 3 * list(range(6))


def test_a_phase_that_begins_later_is_seen() -> None:
    def loop(module: Any, loss: Any, optimizer: Any, index: int) -> None:
        if module.current_epoch < 2:
            optimizer.zero_grad()
        never(module, loss, optimizer, index)

    (finding,), _ = fit(Manual(loop), max_epochs=3)
    assert finding.epoch == 2


def test_a_backward_past_lightning_is_said() -> None:
    def loop(module: Any, loss: Any, optimizer: Any, index: int) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    findings, (note,) = fit(Manual(loop))
    assert findings == []
    assert "blind here: no loss went through `self.manual_backward`" in note


def test_hooks_are_taken_off_after_an_error_and_are_not_copied() -> None:
    optimizers: list[Any] = []

    def loop(module: Any, loss: Any, optimizer: Any, index: int) -> None:
        optimizers.append(optimizer.optimizer)
        at_the_start(module, loss, optimizer, index)
        assert optimizers[-1]._optimizer_step_post_hooks
        assert not copy.deepcopy(optimizers[-1])._optimizer_step_post_hooks
        if index == 3:
            raise RuntimeError("stop")

    monitor = StaleGradientMonitor()
    with pytest.raises(RuntimeError, match="stop"):
        fit(Manual(loop), monitor=monitor)
    assert not optimizers[-1]._optimizer_step_post_hooks
    assert not monitor._trails
    assert not monitor._handles
    assert fit(Manual(at_the_start), monitor=monitor) == ([], [])


def test_raising_ends_the_run_at_the_end_of_the_batch() -> None:
    trainer = quiet_trainer(callbacks=[TuningSuite(select=["LT607"], on_finding="raise")], limit_val_batches=0)
    with pytest.raises(TuningError, match="LT607"):
        trainer.fit(Manual(never))
    assert trainer.global_step == 4
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.parametrize("loop", [never, at_the_start_to_zero, by_data, accumulating], ids=lambda loop: loop.__name__)
@pytest.mark.filterwarnings("ignore:.*LT607")
def test_watching_changes_nothing(loop: Any) -> None:
    ends = [fit_to_the_end(lambda: Manual(loop), attached) for attached in ([], [StaleGradientMonitor()])]
    assert_identical(*ends)


@pytest.mark.parametrize("value", [0, 4, 2.5, True, None])
def test_bad_argument(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`updates_per_epoch` must be .* got"):
        StaleGradientMonitor(value)
