"""Where numbers stop being finite; the steps that lose them are the cases of ``tests/cases/nan``."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.trace.aside import CannotReplay
from lightning_tuning.trace.nonfinite import Origin, find_origin
from lightning_tuning.trace.rng import RngState
from tests.cases.nan import CULPRITS, INF, NAN_CASES, Sick
from tests.helpers import CLASSES, ManualGAN, Mlp, quiet_trainer

Step = Callable[[Any, Tensor, Tensor], Tensor]


class Stepping(Sick):
    """The loss of a :class:`Sick` module as a function, for the short ones."""

    def __init__(self, step: Step | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if step is not None:
            self.loss = functools.partial(step, self)


class Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.abs()

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient * z / z.abs()


def look(module: pl.LightningModule, batch: Any = None, *, tries: int = 1, **settings: Any) -> Origin | None:
    """What is found at the first batch of a fit, before its step."""
    found = []

    class Looker(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, own, batch_idx):
            before = RngState.capture()
            weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
            found.append(find_origin(trainer, pl_module, own if batch is None else batch, batch_idx, tries=tries))
            assert RngState.capture() == before
            for name, value in pl_module.state_dict().items():
                torch.testing.assert_close(value, weights[name], rtol=0, atol=0, equal_nan=True)
            trainer.should_stop = True

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            optimizer.zero_grad()

    quiet_trainer(callbacks=[Looker()], limit_train_batches=1, limit_val_batches=0, **settings).fit(module)
    return found[0]


@pytest.mark.filterwarnings("ignore:(std|var).*degrees of freedom:UserWarning")  # of the very fault
@pytest.mark.parametrize("case", NAN_CASES, ids=str)
def test_blames_the_marked_line(case):
    origin = look(case.module(), **case.trainer)
    assert origin is not None
    assert (origin.kind, origin.cause) == (case.kind, case.cause), origin
    assert str(origin.source_line).endswith(case.line), (origin, case.line)
    assert case.op in (None, origin.op)
    assert case.detail in origin.detail, origin.detail
    assert origin.bad > 0
    assert origin.total == math.prod(origin.shape)
    assert origin.value in ("NaN", "inf", "-inf")
    assert (origin.node is not None) <= (case.kind == "backward")
    assert case.line in origin.sentence()
    assert json.loads(json.dumps(origin.to_dict()))["cause"] == case.cause


def test_there_is_a_case_for_every_cause():
    causes = {case.cause for case in NAN_CASES} | {culprit.cause for culprit in CULPRITS}
    assert causes == CAUSES.keys() - {"unknown-op", "unknown"}


def healthy(module, x, y):
    scores = (module(x) @ module(x).T).masked_fill(torch.ones(16, 16).triu(1).bool(), -INF)
    z = scores.softmax(-1) @ (module(x) + module.mask).softmax(-1)
    z = z + torch.where(y[:, None] > 0, 0.0, torch.tensor(-INF)).exp()
    z = z + torch.empty(16, CLASSES).fill_(INF).clamp(max=1.0)
    return F.cross_entropy(z, y)


def test_healthy_infinities_are_not_blamed():
    origin = look(Stepping(healthy))
    assert origin == Origin("not-reproduced", "not-reproduced")
    assert "outside the module" in origin.sentence()


class Keyed(Mlp):
    """Batches are dictionaries, nested."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"inputs": {"image": batch[0]}, "label": batch[1]} if isinstance(batch, list) else batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["inputs"]["image"]), batch["label"])


def keyed_batch(**bad: float) -> dict[str, Any]:
    x = torch.ones(16, 8)
    for place, value in bad.items():
        row, column = map(int, place.strip("at_").split("_"))
        x[row, column] = value
    return {"inputs": {"image": x}, "label": torch.zeros(16, dtype=torch.long)}


def test_bad_sample_by_key_and_index():
    origin = look(Keyed(), keyed_batch(at_3_0=math.nan, at_3_5=math.nan, at_7_1=INF))
    assert (origin.kind, origin.cause) == ("batch", "bad-sample")
    assert origin.names == ("batch['inputs']['image']",)
    assert origin.samples == (3, 7)
    assert (origin.bad, origin.total, origin.shape, origin.value) == (3, 128, (16, 8), "NaN")
    assert origin.sentence() == "batch['inputs']['image'] holds NaN in samples 3, 7: 3 of 128 values"


def test_negative_infinity_in_a_sample_is_blamed():
    origin = look(Keyed(), keyed_batch(at_2_2=-INF))
    assert (origin.kind, origin.samples, origin.value) == ("batch", (2,), "-inf")


class Imputing(Keyed):
    """Missing values are NaN by declaration; one logarithm of 0 is not."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch["inputs"]["image"].nan_to_num(0.0)
        return F.cross_entropy(self(x), batch["label"]) + (self(x) * 0).log().mean()


def test_declared_missing_values_are_not_blamed():
    origin = look(Imputing(), keyed_batch(at_3_0=math.nan))
    assert (origin.kind, origin.cause) == ("forward", "log-of-zero")


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
def test_bad_weights_by_name(value):
    model = Mlp()
    with torch.no_grad():
        model.net[2].weight[0, :3] = value
        model.net[4].bias[1] = value
    origin = look(model)
    assert (origin.kind, origin.cause) == ("weights", "bad-weights")
    assert origin.names == ("net.2.weight", "net.4.bias")
    assert (origin.bad, origin.total) == (3, 256)
    assert origin.sentence().startswith("not finite before the step: net.2.weight, net.4.bias (3 of 256 values")


def test_weights_go_before_the_batch():
    model = Keyed()
    torch.nn.init.constant_(model.net[0].bias, math.nan)
    assert look(model, keyed_batch(at_0_0=math.nan)).kind == "weights"


def test_poisoned_running_statistics_are_not_blamed_while_they_are_not_read():
    model = Stepping(lambda module, x, y: F.cross_entropy(module.norm(module(x)), y))
    model.norm = nn.BatchNorm1d(CLASSES)
    model.norm.running_mean.fill_(math.nan)
    assert look(model).kind == "not-reproduced"


def test_propagators_are_not_blamed():
    def step(module, x, y):
        z = module(x) * 0
        bad = z.log()
        z = F.layer_norm(bad.cumsum(-1), (CLASSES,)) @ torch.ones(CLASSES, 4)
        return (z.exp() / z.sqrt()).relu().mean()

    origin = look(Stepping(step))
    assert (origin.op, origin.cause) == ("log", "log-of-zero")
    assert origin.input_min == origin.input_max == 0.0
    assert (origin.bad, origin.value, origin.aten) == (48, "-inf", "aten::log")


def test_fault_that_does_not_reach_the_loss_is_not_blamed():
    def step(module, x, y):
        z = module(x)
        module.shown = (z * 0).log().mean()
        return (z - 5).sqrt().mean()

    assert look(Stepping(step)).op == "sqrt"


def test_module_path():
    class Head(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z * 0).log()

    class Deep(Mlp):
        def build(self) -> nn.Module:
            return nn.Sequential(super().build(), nn.ModuleDict({"inner": Head()})["inner"])

    assert look(Deep()).module == "net.1"
    gradient = Stepping(lambda module, x, y: module.root(module(x) * 0).mean())
    gradient.root = type("Root", (nn.Module,), {"forward": lambda self, z: z.sqrt()})()
    assert look(gradient).module == "root"


def test_line_within_the_users_own_backward():
    origin = look(Stepping(lambda module, x, y: Distance.apply(module(x) * 0).mean()))
    lines, start = inspect.getsourcelines(Distance.backward)
    assert (origin.kind, origin.cause) == ("backward", "division-by-zero")
    assert origin.detail == "gradient of distance: 0.0 / 0.0"
    assert str(origin.source_line).endswith(f"test_nonfinite.py:{start + len(lines) - 1}")
    assert origin.node == "DistanceBackward"


def test_custom_operator_is_said_to_be_unknown():
    @torch.library.custom_op("lightning_tuning_tests::burst", mutates_args=())
    def burst(z: Tensor) -> Tensor:
        return torch.full_like(z, math.nan)

    origin = look(Stepping(lambda module, x, y: burst(module(x).detach()).mean() + 0 * module.scale))
    assert origin.cause in ("unknown-op", "constant")
    assert "lightning_tuning_tests::burst" in origin.detail or "full_like with nan" in origin.detail


def test_value_from_outside_torch():
    def step(module, x, y):
        import numpy as np

        return (module(x) + torch.from_numpy(np.array([np.nan], dtype=np.float32))).mean()

    origin = look(Stepping(step))
    assert (origin.cause, origin.op) == ("constant", "add")


def test_manual_optimization_and_the_second_loss():
    class Torn(ManualGAN):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer_d, optimizer_g = self.optimizers()
            self.manual_backward(F.softplus(self(batch[0])).mean())
            optimizer_d.step()
            fake = self.net["generator"](torch.randn(4, self.latent))
            self.manual_backward((fake * 0).log().mean())
            optimizer_g.step()

    origin = look(Torn())
    assert (origin.cause, origin.shape) == ("log-of-zero", (4, 8))


def test_dropout_at_fault_needs_the_state_of_the_start():
    # Which values are dropped, and so whether there is a 0 to divide by, is the generator's doing.
    def step(module, x, y):
        return (1 / F.dropout(torch.ones(4), 0.02)).mean() + 0 * module(x).mean()

    found = []

    class Looker(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.start = RngState.capture()

        def on_before_backward(self, trainer, pl_module, loss):
            if not loss.isfinite():
                origin = find_origin(trainer, pl_module, self.batch(pl_module), 0, rng=self.start)
                found.append(origin.cause)

        def batch(self, pl_module):
            return next(iter(pl_module.train_dataloader()))

    pl.seed_everything(3, verbose=False)
    quiet_trainer(callbacks=[Looker()], limit_val_batches=0).fit(Stepping(step, batches=60, lr=0.0))
    assert found
    assert set(found) == {"division-by-zero"}


class Moody(Stepping):
    """Its step is NaN when called for the second time, by a count that nobody puts back."""

    calls: ClassVar[list[int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls.append(batch_idx)
        x, y = batch
        z = self(x) * (0 if len(self.calls) == 2 else 1)
        return F.cross_entropy(self(x), y) + 0 * z.abs().log().sum()  # 0 * -inf


@pytest.mark.parametrize(("tries", "cause", "took"), [(1, "not-reproduced", 1), (3, "log-of-zero", 2)])
def test_a_step_that_comes_out_finite_is_repeated(monkeypatch, tries, cause, took):
    monkeypatch.setattr(Moody, "calls", [])
    origin = look(Moody(None), tries=tries)
    assert (origin.cause, origin.tries) == (cause, took)
    assert ("in the last of 2 repetitions alone" in origin.sentence()) == (took == 2)


def test_how_often_in_vain_is_said():
    origin = look(Stepping(lambda module, x, y: F.cross_entropy(module(x), y)), tries=3)
    assert origin == Origin("not-reproduced", "not-reproduced", tries=3)
    assert "finite all 3 times" in origin.sentence()


def test_tries_must_be_one_or_more():
    with pytest.raises(ValueError, match="`tries` must be at least 1, got 0"):
        look(Mlp(), tries=0)


class Guarded(Stepping):
    """Its real step is never run."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
        return -1


def test_step_that_raises():
    def after(module, x, y):
        loss = (module(x) * 0).log().mean()
        raise ValueError(f"the loss is {loss.item()}")

    def before(module, x, y):
        raise KeyError("label")

    assert look(Guarded(after)).cause == "log-of-zero"
    with pytest.raises(CannotReplay, match=r"raised KeyError: 'label'"):
        look(Guarded(before))


def test_step_without_a_loss():
    assert look(Guarded(lambda module, x, y: None)) is None


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        (
            Origin("forward", "log-of-zero", "log", module="model.head", source_line="losses.py:31",
                   detail="log of 0.0", bad=3, total=640, value="-inf"),
            "log of 0.0 at model.head (losses.py:31): 3 of 640 values became -inf",
        ),
        (
            Origin("backward", "sqrt-at-zero", "sqrt", source_line="a.py:1", detail="sqrt of 0.0", bad=1, total=2,
                   value="inf", node="SqrtBackward0"),
            "sqrt of 0.0 in SqrtBackward0 (a.py:1): 1 of 2 values became inf",
        ),
        (
            Origin("batch", "bad-sample", names=("batch[0]",), samples=tuple(range(10)), bad=10, total=10, value="inf"),
            "batch[0] holds inf in samples 0, 1, 2, 3, 4, 5, 6, 7, ...: 10 of 10 values",
        ),
        (
            Origin("weights", "bad-weights", names=("a", "b", "c", "d"), bad=1, total=9, value="NaN"),
            "not finite before the step: a, b, c and 1 more (1 of 9 values of the first are NaN)",
        ),
        (
            Origin("weights", "bad-weights", names=("scale",), bad=1, total=9, value="NaN"),
            "not finite before the step: scale (1 of 9 values are NaN)",
        ),
    ],
)  # fmt: skip
def test_sentences(origin, sentence):
    assert origin.sentence() == sentence


@pytest.mark.parametrize(("samples", "place"), [((5,), "in sample 5 of batch 2"), ((), "in batch 2")])
def test_the_batch_of_a_bad_sample_is_named(samples, place):
    origin = Origin("batch", "bad-sample", names=("batch[0]",), samples=samples, bad=1, total=8, value="NaN")
    assert origin.sentence(batch_idx=2) == f"batch[0] holds NaN {place}: 1 of 8 values"
