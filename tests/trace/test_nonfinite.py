"""Sick steps, each with one line that is to blame: marked ``# <- origin``."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_tuning.trace.aside import CannotReplay
from lightning_tuning.trace.nonfinite import CAUSES, Origin, find_origin
from lightning_tuning.trace.rng import RngState
from tests.helpers import CLASSES, ManualGAN, Mlp, TinyModule, quiet_trainer

INF = float("inf")
Step = Callable[[Any, Tensor, Tensor], Tensor]


@dataclass
class Case:
    step: Step
    cause: str
    kind: str = "forward"
    op: str | None = None
    detail: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        lines, start = inspect.getsourcelines(self.step)
        (marked,) = [start + offset for offset, line in enumerate(lines) if line.rstrip().endswith("# <- origin")]
        return f"test_nonfinite.py:{marked}"


CASES: dict[str, Case] = {}


def sick(cause: str, **more: Any) -> Callable[[Step], Step]:
    def register(step: Step) -> Step:
        CASES[step.__name__] = Case(step, cause, **more)
        return step

    return register


class Sick(TinyModule):
    """Logits from a small net, then whatever ``step`` makes of them."""

    def __init__(self, step: Step, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("mask", torch.tensor([0.0, -INF, 0.0]))

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.step(self, *batch)


@sick("log-of-zero", op="log", detail="log of 0.0")
def log_of_softmax_that_underflows(module, x, y):
    probabilities = (200 * module(x)).softmax(-1)
    return -probabilities.log().gather(1, y[:, None]).mean()  # <- origin


@sick("log-of-zero", op="log", detail="log of 0.0")
def entropy(module, x, y):
    p = F.one_hot(y, CLASSES) * module(x).softmax(-1)
    logs = p.log()  # <- origin
    return -(p * logs).sum()


@sick("log-of-negative", op="log", detail="log of -")
def log_of_negative(module, x, y):
    z = module(x) - 5
    return torch.log(z).mean()  # <- origin


@sick("log-of-zero", op="log", detail="log of 0.0")
def log_in_place(module, x, y):
    z = module(x).relu() * 0
    z = z + 0 * module.scale
    z.log_()  # <- origin
    return z.mean()


@sick("log-of-zero", op="log1p", detail="log1p of -1.0")
def log1p(module, x, y):
    z = module(x) * 0 - 1
    return z.log1p().sum()  # <- origin


@sick("log-of-zero", op="logit", detail="logit of ")
def logit(module, x, y):
    z = torch.sigmoid(100 * module(x) - 1000)
    return torch.logit(z).sum()  # <- origin


@sick("exp-overflow", op="exp", detail="in float32 (largest: 88.72)")
def exponential(module, x, y):
    z = module(x) + 90
    return torch.exp(z).mean()  # <- origin


@sick("exp-overflow", op="exp")
def own_softmax(module, x, y):
    z = module(x) + 100
    e = z.exp()  # <- origin
    p = e / e.sum(-1, keepdim=True)  # inf / inf
    return F.nll_loss(p, y)


@sick("overflow", op="mul", detail="in float32 (largest: 3.403e+38)")
def product(module, x, y):
    z = module(x) + 1e30
    return (z * z).mean()  # <- origin


@sick("overflow", op="pow")
def square(module, x, y):
    z = module(x) - 1e30
    return z.pow(2).mean()  # <- origin


@sick("overflow", op="sum")
def total(module, x, y):
    z = module(x) + 3e38
    return z.sum()  # <- origin


@sick("overflow", op="matmul", detail="matmul: products of values up to 1e+25 exceed 3.403e+38 (float32)")
def product_of_matrices(module, x, y):
    z = module(x) + 1e25
    return (z @ z.T).mean()  # <- origin


@sick("half-overflow", op="to", detail="in float16 (largest: 6.55e+04)")
def cast_to_half(module, x, y):
    z = 1e5 + module(x)
    return z.half().float().mean()  # <- origin


@sick("half-overflow", op="mul")
def product_in_half(module, x, y):
    z = (module(x) + 300).half()
    z = z * z  # <- origin
    return z.float().mean()


@sick("exp-overflow", op="exp", detail="in float16 (largest: 11.09)")
def exponential_in_half(module, x, y):
    z = (module(x) + 20).half()
    return z.exp().float().mean()  # <- origin


@sick("division-by-zero", op="div", detail=" / 0.0")
def division(module, x, y):
    z = module(x)
    return (z / (z - z)).mean()  # <- origin


@sick("division-by-zero", op="div", detail="0.0 / 0.0")
def mean_over_an_empty_mask(module, x, y):
    kept = (y > 99).float()
    return (module(x).sum(-1) * kept).sum().mul(0) / kept.sum()  # <- origin


@sick("division-by-zero", op="div")
def division_by_a_number(module, x, y):
    return (module(x).mean() + 1) / 0.0  # <- origin


@sick("division-by-zero", op="reciprocal", detail="1 / 0.0")
def reciprocal(module, x, y):
    z = module(x) * 0
    return z.reciprocal().mean()  # <- origin


@sick("division-by-zero", op="rsqrt", detail="rsqrt of 0.0")
def inverse_deviation(module, x, y):
    z = module(x) * 0 + 1
    return ((z - z.mean(-1, keepdim=True)) * z.var(-1, keepdim=True).rsqrt()).mean()  # <- origin


@sick("division-by-zero", op="layer_norm", detail="eps=0.0")
def layer_norm_without_eps(module, x, y):
    z = module(x) * 0 + 1
    return F.layer_norm(z, (CLASSES,), eps=0.0).mean()  # <- origin


@sick("pow-domain", op="sqrt", detail="sqrt of -")
def root_of_negative(module, x, y):
    z = module(x) - 5
    return z.sqrt().mean()  # <- origin


@sick("pow-domain", op="pow", detail="** 0.3")
def power_of_negative(module, x, y):
    z = module(x) - 5
    return (z**0.3).mean()  # <- origin


@sick("pow-domain", op="pow", detail="(0.0) ** -1.5")
def negative_power_of_zero(module, x, y):
    z = module(x) * 0
    return torch.pow(z, -1.5).mean()  # <- origin


@sick("trig-domain", op="acos", detail="acos of 1.0000001")
def angle_between(module, x, y):
    cosine = torch.cos(module(x)) * 0 + 1.0000001
    return torch.acos(cosine).mean()  # <- origin


@sick("trig-domain", op="atanh", detail="atanh of 1.0")
def inverse_tanh(module, x, y):
    z = torch.tanh(module(x) + 100)
    return torch.atanh(z).mean()  # <- origin


@sick("masked-softmax", op="softmax", detail="softmax over a row of -inf alone")
def attention_with_nothing_to_look_at(module, x, y):
    scores = module(x) @ module(x).T
    scores = scores.masked_fill(y[None] > -1, -INF)
    return scores.softmax(-1).mean()  # <- origin


@sick("masked-softmax", op="log_softmax")
def all_classes_masked(module, x, y):
    z = module(x) + torch.full((CLASSES,), -INF)
    return F.cross_entropy(z, y)  # <- origin


@sick("empty-reduction", op="mean", detail="mean of no values")
def mean_of_nothing(module, x, y):
    z = module(x)[y > 99]
    return z.mean()  # <- origin


@sick("empty-reduction", op="std", detail="std of 1 value")
def deviation_of_one(module, x, y):
    z = module(x)[:1]
    return z.std(0).mean()  # <- origin


@sick("all-targets-ignored", op="nll_loss", detail="all 16 targets are ignore_index=-100")
def only_padding(module, x, y):
    z = module(x)
    return F.cross_entropy(z, torch.full_like(y, -100))  # <- origin


@sick("constant", op="masked_fill", detail="masked_fill with -inf")
def mask_in_the_loss(module, x, y):
    z = module(x).log_softmax(-1)
    z = z.masked_fill(F.one_hot(y, CLASSES).bool(), -INF)  # <- origin
    return -z.mean()


class Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.abs()

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient * z / z.abs()


@sick("sqrt-at-zero", kind="backward", op="sqrt", detail="the gradient of sqrt at 0 is infinite")
def root_at_zero(module, x, y):
    z = module(x) * 0
    return torch.sqrt(z).mean()  # <- origin


@sick("norm-at-zero", kind="backward", op="sqrt", detail="the gradient of sqrt at 0 is infinite")
def own_norm_at_zero(module, x, y):
    z = module(x)
    difference = z - z
    squares = (difference**2).sum(-1)
    return squares.sqrt().mean()  # <- origin


@sick("repeated-eigenvalues", kind="backward", op="linalg_eigh", detail="gradient of eigh at equal eigenvalues")
def vectors_of_equal_eigenvalues(module, x, y):
    z = module(x) * 0
    return torch.linalg.eigh(z.T @ z)[1].abs().sum()  # <- origin


@sick("repeated-eigenvalues", kind="backward", op="linalg_svd", detail="gradient of svd at equal or zero singular")
def vectors_of_equal_singular_values(module, x, y):
    z = module(x)[:CLASSES] * 0 + torch.eye(CLASSES)
    return torch.linalg.svd(z)[0].abs().sum()  # <- origin


@sick("norm-at-zero", kind="backward", op="hypot", detail="the gradient of hypot at 0 does not exist")
def hypotenuse_at_zero(module, x, y):
    z = module(x) * 0
    return torch.hypot(z, z).mean()  # <- origin


@sick("pow-domain", kind="backward", op="pow", detail="(0.0) ** -0.5")
def half_power_at_zero(module, x, y):
    z = module(x) * 0
    return z.pow(0.5).mean()  # <- origin


@sick("trig-domain", kind="backward", op="acos")
def angle_at_the_edge(module, x, y):
    z = module(x) * 0 + 1
    return torch.acos(z).mean()  # <- origin


@sick("where-branch", kind="backward", op="log", detail="0 * inf")
def where_with_a_logarithm(module, x, y):
    z = module(x) * 0
    logarithm = torch.log(z)  # <- origin
    return torch.where(z > 0, logarithm, torch.zeros_like(z)).mean()


@sick("where-branch", kind="backward", op="sqrt", detail="0 * inf")
def where_with_a_root(module, x, y):
    z = module(x) * 0
    root = z.sqrt()  # <- origin
    return torch.where(z > 0, root, torch.zeros_like(z)).mean()


@sick("where-branch", kind="backward", op="exp", detail="0 * inf")
def where_with_an_exponential(module, x, y):
    z = module(x) + 100
    grown = z.exp()  # <- origin
    return torch.where(z > 50, z, grown).mean()


@sick("where-branch", kind="backward", op="pow", detail="0 * inf")
def masked_power(module, x, y):
    z = module(x) * 0
    power = z**0.5  # <- origin
    return power.masked_fill(z == 0, 0.0).mean()


@sick("where-branch", kind="backward", op="reciprocal", detail="0 * inf")
def where_with_a_division(module, x, y):
    z = module(x) * 0
    inverse = 1 / z  # <- origin
    return torch.where(z > 0, inverse, z).mean()


@sick("overflow", kind="backward", op="mul")
def steep_factors(module, x, y):
    z = module(x) * 1e-38
    z = z * 1e22  # <- origin
    return (z * 1e22).mean()


@sick("log-of-zero", op="log", settings={"precision": "bf16-mixed"})
def mixed_logarithm(module, x, y):
    probabilities = (500 * module(x)).softmax(-1)
    return -torch.log(probabilities).mean()  # <- origin


@sick("exp-overflow", op="exp", settings={"precision": "bf16-mixed"})
def mixed_exponential(module, x, y):
    z = module(x) + 95
    return torch.exp(z).mean()  # <- origin


@sick("sqrt-at-zero", kind="backward", op="sqrt", settings={"precision": "bf16-mixed"})
def mixed_root(module, x, y):
    z = module(x) * 0
    return z.sqrt().mean()  # <- origin


@sick("overflow", op="mul", settings={"precision": "bf16-true"})
def brain_float_product(module, x, y):
    z = module(x) + 1e30
    return (z * z).mean()  # <- origin


@sick("division-by-zero", op="div", settings={"accumulate_grad_batches": 2})
def accumulated_division(module, x, y):
    z = module(x)
    return (z / (z * 0)).mean()  # <- origin


@sick("log-of-zero", op="log")
def inside_a_checkpoint(module, x, y):
    def inner(z):
        return z.relu().mul(0).log()  # <- origin

    return checkpoint(inner, module(x), use_reentrant=False).mean()


@sick("sqrt-at-zero", kind="backward", op="sqrt")
def gradient_inside_a_checkpoint(module, x, y):
    def inner(z):
        z = z * 0
        return z.sqrt()  # <- origin

    return checkpoint(inner, module(x), use_reentrant=False).mean()


@sick("overflow", op="mse_loss", detail="mse_loss: squares of values up to 1e+25 exceed 3.403e+38 (float32)")
def squared_error(module, x, y):
    z = module(x) + 1e25
    return F.mse_loss(z, torch.zeros_like(z))  # <- origin


@sick("overflow", op="matmul", detail="matmul: sums of products of values up to 1.8e+19 exceed 3.403e+38 (float32)")
def sum_of_products(module, x, y):
    z = module(x) + 1.8e19
    return (z @ z.T).mean()  # <- origin


@sick("overflow", op="matmul")
def weights_that_grew(module, x, y):
    huge = module.net[2].weight * 1e38
    hidden = module.net[:2](x) + 10
    return F.linear(hidden, huge * 3).mean()  # <- origin


@sick("log-of-zero", op="log")
def healthy_masks_before_the_fault(module, x, y):
    z = module(x) + module.mask  # a buffer of 0 and -inf
    z = z.masked_fill(y[:, None] > 99, -INF)
    causal = torch.full((16, 16), -INF).triu(1)
    z = (z.softmax(-1) @ z.softmax(-1).T + causal).softmax(-1) @ module(x)
    return (z * 0).log().mean()  # <- origin


def look(module: pl.LightningModule, batch: Any = None, **settings: Any) -> Origin | None:
    """What is found at the first batch of a fit, before its step."""
    found = []

    class Looker(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, own, batch_idx):
            before = RngState.capture()
            weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
            found.append(find_origin(trainer, pl_module, own if batch is None else batch, batch_idx))
            assert RngState.capture() == before
            for name, value in pl_module.state_dict().items():
                torch.testing.assert_close(value, weights[name], rtol=0, atol=0, equal_nan=True)
            trainer.should_stop = True

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            optimizer.zero_grad()

    quiet_trainer(callbacks=[Looker()], limit_train_batches=1, limit_val_batches=0, **settings).fit(module)
    return found[0]


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom:UserWarning")  # of the very fault
@pytest.mark.parametrize("name", CASES)
def test_blames_the_marked_line(name):
    case = CASES[name]
    origin = look(Sick(case.step), **case.settings)
    assert origin is not None
    assert (origin.kind, origin.cause) == (case.kind, case.cause), origin
    assert str(origin.source_line).endswith(case.line), (origin, case.line)
    assert case.op in (None, origin.op)
    assert case.detail in origin.detail, origin.detail
    assert origin.bad > 0
    assert origin.total == math.prod(origin.shape)
    assert origin.value in ("NaN", "inf", "-inf")
    assert (origin.node is not None) == (
        case.kind == "backward" and not origin.aten.endswith(("exp", "log", "reciprocal"))
    )
    assert case.line in origin.sentence()
    assert json.loads(json.dumps(origin.to_dict()))["cause"] == case.cause


def test_there_is_a_case_for_every_cause():
    elsewhere = {"bad-sample", "bad-weights", "unknown-op", "not-reproduced"}
    assert {case.cause for case in CASES.values()} == CAUSES.keys() - elsewhere


def healthy(module, x, y):
    scores = (module(x) @ module(x).T).masked_fill(torch.ones(16, 16).triu(1).bool(), -INF)
    z = scores.softmax(-1) @ (module(x) + module.mask).softmax(-1)
    z = z + torch.where(y[:, None] > 0, 0.0, torch.tensor(-INF)).exp()
    z = z + torch.empty(16, CLASSES).fill_(INF).clamp(max=1.0)
    return F.cross_entropy(z, y)


def test_healthy_infinities_are_not_blamed():
    origin = look(Sick(healthy))
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
    model = Sick(lambda module, x, y: F.cross_entropy(module.norm(module(x)), y))
    model.norm = nn.BatchNorm1d(CLASSES)
    model.norm.running_mean.fill_(math.nan)
    assert look(model).kind == "not-reproduced"


def test_propagators_are_not_blamed():
    def step(module, x, y):
        z = module(x) * 0
        bad = z.log()
        z = F.layer_norm(bad.cumsum(-1), (CLASSES,)) @ torch.ones(CLASSES, 4)
        return (z.exp() / z.sqrt()).relu().mean()

    origin = look(Sick(step))
    assert (origin.op, origin.cause) == ("log", "log-of-zero")
    assert origin.input_min == origin.input_max == 0.0
    assert (origin.bad, origin.value, origin.aten) == (48, "-inf", "aten::log")


def test_fault_that_does_not_reach_the_loss_is_not_blamed():
    def step(module, x, y):
        z = module(x)
        module.shown = (z * 0).log().mean()
        return (z - 5).sqrt().mean()

    assert look(Sick(step)).op == "sqrt"


def test_module_path():
    class Head(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z * 0).log()

    class Deep(Mlp):
        def build(self) -> nn.Module:
            return nn.Sequential(super().build(), nn.ModuleDict({"inner": Head()})["inner"])

    assert look(Deep()).module == "net.1"
    gradient = Sick(lambda module, x, y: module.root(module(x) * 0).mean())
    gradient.root = type("Root", (nn.Module,), {"forward": lambda self, z: z.sqrt()})()
    assert look(gradient).module == "root"


def test_line_within_the_users_own_backward():
    origin = look(Sick(lambda module, x, y: Distance.apply(module(x) * 0).mean()))
    lines, start = inspect.getsourcelines(Distance.backward)
    assert (origin.kind, origin.cause) == ("backward", "division-by-zero")
    assert origin.detail == "gradient of distance: 0.0 / 0.0"
    assert str(origin.source_line).endswith(f"test_nonfinite.py:{start + len(lines) - 1}")
    assert origin.node == "DistanceBackward"


def test_custom_operator_is_said_to_be_unknown():
    @torch.library.custom_op("lightning_tuning_tests::burst", mutates_args=())
    def burst(z: Tensor) -> Tensor:
        return torch.full_like(z, math.nan)

    origin = look(Sick(lambda module, x, y: burst(module(x).detach()).mean() + 0 * module.scale))
    assert origin.cause in ("unknown-op", "constant")
    assert "lightning_tuning_tests::burst" in origin.detail or "full_like with nan" in origin.detail


def test_value_from_outside_torch():
    def step(module, x, y):
        import numpy as np

        return (module(x) + torch.from_numpy(np.array([np.nan], dtype=np.float32))).mean()

    origin = look(Sick(step))
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
    quiet_trainer(callbacks=[Looker()], limit_val_batches=0).fit(Sick(step, batches=60, lr=0.0))
    assert found
    assert set(found) == {"division-by-zero"}


class Guarded(Sick):
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
