"""The bounds, by what the optimizers themselves do on a quadratic just below and just above them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer, RMSprop

from lightning_tuning.functional import hessian_top_eigenvalue
from lightning_tuning.functional.curvature import CurvatureError
from lightning_tuning.trace import CannotReplay
from lightning_tuning.trace._step_sizes import GATHERED, NoBoundError, step_sizes
from lightning_tuning.trace.stability import NotYetError, Stability, mean_stability, of_all_ranks, stability_of
from tests.helpers import (
    CLASSES,
    BNConvNet,
    DropoutNet,
    LSTMNet,
    ManualGAN,
    Mlp,
    TinyModule,
    TransformerNet,
    quiet_trainer,
)

CURVATURES = (0.2, 1.0, 3.0, 5.0)


class Bowl:
    """A quadratic in two parameters that do not keep to its axes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(4)
        turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
        self.matrix = turn @ torch.diag(torch.tensor(CURVATURES, dtype=torch.float64)) @ turn.T
        start = torch.randn(4, generator=generator, dtype=torch.float64)
        self.parameters = [nn.Parameter(start[:1].clone()), nn.Parameter(start[1:].clone())]

    def loss(self, sign: float = 1.0) -> Tensor:
        point = torch.cat(self.parameters)
        return sign * (point @ self.matrix @ point) / 2

    def distance(self) -> float:
        return float(torch.cat(self.parameters).detach().norm())


def groups(one: Any, other: Any) -> Callable[[list[nn.Parameter]], list[dict[str, Any]]]:
    return lambda parameters: [
        {"params": [p], **settings} for p, settings in zip(parameters, (one, other), strict=True)
    ]


FROZEN = {"betas": (0.9, 1 - 1e-12)}  # the second moments stay as they are set

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "little momentum": lambda p: SGD(p, lr=0.1, momentum=0.3),
    "dampened": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.6),
    "Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "decayed": lambda p: SGD(p, lr=0.1, momentum=0.8, weight_decay=2.0),
    "rates of their own": lambda p: SGD(groups({"lr": 0.3}, {"lr": 0.02})(p), momentum=0.9),
    "settings of their own": lambda p: SGD(
        groups({"lr": 0.3, "momentum": 0.9, "weight_decay": 1.0}, {"lr": 0.5, "momentum": 0.2})(p)
    ),
    "Adam": lambda p: Adam(p, lr=0.1, **FROZEN),
    "Adam, L2": lambda p: Adam(p, lr=0.1, weight_decay=2.0, **FROZEN),
    "Adam, other betas": lambda p: Adam(p, lr=0.1, betas=(0.5, 1 - 1e-12)),
    "AMSGrad": lambda p: Adam(p, lr=0.1, amsgrad=True, **FROZEN),
    "AdamW": lambda p: AdamW(p, lr=0.1, weight_decay=0.05, **FROZEN),
    "RMSprop": lambda p: RMSprop(p, lr=0.1, alpha=1 - 1e-12),
    "RMSprop, centered, momentum": lambda p: RMSprop(p, lr=0.1, alpha=1 - 1e-12, momentum=0.7, centered=True),
}


def gathered(optimizer: Optimizer, parameters: list[nn.Parameter], steps: float = 1e15) -> None:
    """Give the optimizer the state of a long run."""
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters:
        squares = 0.5 + torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
        state = optimizer.state[parameter]
        state["step"] = torch.tensor(steps, dtype=torch.float64)
        if isinstance(optimizer, RMSprop):
            state["square_avg"] = squares.clone()
            state["grad_avg"] = 0.1 * squares
            state["momentum_buffer"] = torch.zeros_like(parameter)
        elif isinstance(optimizer, Adam):
            state.update(exp_avg=torch.zeros_like(parameter), exp_avg_sq=squares.clone())
            state["max_exp_avg_sq"] = 2 * squares


def excess_of(optimizer: Optimizer, bowl: Bowl) -> float:
    sizes = step_sizes(optimizer)
    found = hessian_top_eigenvalue(
        bowl.loss(-1.0 if sizes.maximize else 1.0),
        sizes.parameters,
        preconditioner=sizes.preconditioner,
        decay=sizes.decay,
    )
    return float(found.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("times", [0.98, 1.02])
def test_steps_grow_above_the_bound_and_shrink_below_it(name: str, times: float) -> None:
    bowl = Bowl()
    optimizer = OPTIMIZERS[name](bowl.parameters)
    if not isinstance(optimizer, SGD):
        gathered(optimizer, bowl.parameters)
    for _ in range(8):  # decoupled decay is multiplied by the rate as well, and moves the bound a little
        scale = times / excess_of(optimizer, bowl)
        for group in optimizer.param_groups:
            group["lr"] *= scale
    assert excess_of(optimizer, bowl) == pytest.approx(times, rel=1e-3)
    distances = [bowl.distance()]
    for _ in range(1200):
        optimizer.zero_grad()
        bowl.loss().backward()
        optimizer.step()
        distances.append(bowl.distance())
        if distances[-1] > 100 * distances[0]:
            break  # before the second moments notice
    if times < 1:
        assert distances[-1] < 0.05 * distances[0]
    else:
        assert distances[-1] > 20 * distances[0]


def test_uphill() -> None:
    bowl = Bowl()
    optimizer = SGD(bowl.parameters, lr=0.1, maximize=True)
    with torch.no_grad():
        bowl.matrix.neg_()
    assert excess_of(optimizer, bowl) == pytest.approx(5.0 * 0.1 / 2, rel=1e-6)


def test_the_bounds_as_people_know_them() -> None:
    weight = [nn.Parameter(torch.ones(1))]
    told = {
        "2 / lr": SGD(weight, lr=0.1),
        "2 (1 + 0.9) / lr": SGD(weight, lr=0.1, momentum=0.9),
        "2 (1 + 0.9) / (1 + 2 x 0.9) / lr": SGD(weight, lr=0.1, momentum=0.9, nesterov=True),
        "2 (1 + 0.9) / 0.5 / lr": SGD(weight, lr=0.1, momentum=0.9, dampening=0.5),
    }
    bounds = {formula: step_sizes(optimizer) for formula, optimizer in told.items()}
    assert all(sizes.formula == formula for formula, sizes in bounds.items())
    assert [sizes.bound for sizes in bounds.values()] == pytest.approx([20.0, 38.0, 38 / 2.8, 76.0])
    adam = Adam(weight, lr=0.001)
    gathered(adam, weight)
    assert step_sizes(adam).bound == pytest.approx(38 / 0.001)


def test_the_first_rate_is_that_of_the_group_with_the_highest() -> None:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    rates = ((weights[:1], 0.1), (weights[1:2], 0.4), ([], 9.0))
    optimizer = SGD([{"params": held, "lr": rate} for held, rate in rates])
    sizes = step_sizes(optimizer)
    assert (sizes.where, sizes.lr, sizes.bound) == ("SGD group 1", 0.4, 5.0)
    assert sizes.preconditioner == pytest.approx([20.0, 5.0])


def test_a_rate_of_zero_holds_a_group_fixed() -> None:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = SGD([{"params": weights[:1], "lr": 0.0}, {"params": weights[1:], "lr": 0.4}])
    assert step_sizes(optimizer).preconditioner == [math.inf, 5.0]


class OwnStep(SGD):
    def step(self, closure: Any = None) -> None:
        return super().step(closure)


class OwnDefaults(SGD):
    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.5)


def test_a_subclass_steps_as_its_step_does() -> None:
    assert step_sizes(OwnDefaults([nn.Parameter(torch.ones(1))])).bound == 4.0
    with pytest.raises(NoBoundError, match="no bound on the curvature is known for the steps of OwnStep"):
        step_sizes(OwnStep([nn.Parameter(torch.ones(1))], lr=0.1))


@pytest.mark.parametrize(
    ("make", "message", "soon"),
    [
        (Adadelta, "known for the steps of Adadelta", False),
        (torch.optim.LBFGS, "known for the steps of LBFGS", False),
        (lambda w: SGD(w, lr=0.0), "the learning rate of SGD is 0 now", True),
        (Adam, "Adam divides by what its first 100 steps gather", True),
        (Adagrad, "Adagrad divides by what its first 100 steps gather", True),
        (
            lambda w: SGD([{"params": w[:1], "maximize": True}, {"params": w[1:], "maximize": False}], lr=0.1),
            "SGD goes up in one group and down in another",
            False,
        ),
    ],
)
def test_no_bound(make: Any, message: str, soon: bool) -> None:
    with pytest.raises(NoBoundError, match=message) as raised:
        step_sizes(make([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))]))
    assert raised.value.soon is soon


def test_complex_parameters_of_adam() -> None:
    weight = [nn.Parameter(torch.ones(1, dtype=torch.complex64))]
    assert step_sizes(SGD(weight, lr=0.1)).bound == 20
    with pytest.raises(NoBoundError, match="two parts of complex parameters apart"):
        step_sizes(Adam(weight))


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop, Adagrad])
def test_adaptive_ones_after_their_first_steps(kind: type[Optimizer]) -> None:
    bowl = Bowl()
    optimizer = kind(bowl.parameters, lr=1e-3)
    for _ in range(GATHERED):
        with pytest.raises(NoBoundError):
            step_sizes(optimizer)
        optimizer.zero_grad()
        bowl.loss().backward()
        optimizer.step()
    divisors = [limit * 1e-3 / (38 if kind in (Adam, AdamW) else 2) for limit in step_sizes(optimizer).preconditioner]
    gradients = [p.grad.abs() for p in bowl.parameters]
    if kind is not Adagrad:
        for divisor, gradient in zip(divisors, gradients, strict=True):
            torch.testing.assert_close(divisor.double(), gradient, rtol=0.6, atol=0.01)
    else:
        assert all(bool((d > 3 * g).all()) for d, g in zip(divisors, gradients, strict=True))


class Look(pl.Callback):
    """Measures before one step."""

    def __init__(self, step: int, **settings: Any) -> None:
        self.step, self.settings = step, settings
        self.found: Stability | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        if trainer.global_step == self.step and self.found is None:
            self.found = stability_of(trainer, pl_module, batch, batch_idx, **self.settings)


def stability_in(model: pl.LightningModule, step: int = 0, *, trainer: Any = None, **settings: Any) -> Stability:
    look = Look(step, **settings)
    quiet_trainer(callbacks=[look], **(trainer or {})).fit(model)
    assert look.found is not None
    return look.found


class Tanh(TinyModule):
    """Small enough to have its Hessian written out."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, CLASSES))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        names = [name for name, _ in self.net.named_parameters()]
        weights = tuple(p.detach() for p in self.net.parameters())

        def loss(*values: Tensor) -> Tensor:
            called = torch.func.functional_call(self.net, dict(zip(names, values, strict=True)), (x,))
            return F.cross_entropy(called, y)

        blocks = torch.autograd.functional.hessian(loss, weights)
        rows = [torch.cat([b.reshape(w.numel(), -1) for b in row], 1) for w, row in zip(weights, blocks, strict=True)]
        self.exact = float(torch.linalg.eigvalsh(torch.cat(rows))[-1])


def test_the_step_of_a_run() -> None:
    model = Tanh(batches=3)
    found = stability_in(model, 2, iterations=40, tolerance=1e-4)
    assert found.sharpness == pytest.approx(model.exact, rel=1e-3)
    assert (found.where, found.lr, found.formula) == ("SGD group 0", 0.1, "2 (1 + 0.9) / lr")
    assert found.bound == pytest.approx(38.0)
    assert found.excess == pytest.approx(found.sharpness / 38)
    assert found.stable_lr == pytest.approx(3.8 / found.sharpness)


def test_no_more_products_than_needed_and_allowed() -> None:
    assert stability_in(Mlp(), iterations=2).iterations == 2
    assert stability_in(Mlp(), iterations=200).iterations < 30


@pytest.mark.parametrize("kind", [BNConvNet, DropoutNet, LSTMNet], ids=lambda kind: kind.__name__)
def test_one_fixed_function(kind: type[TinyModule]) -> None:
    """A function whose noise were drawn anew for every product would have no eigenvalue to come to."""
    one = stability_in(kind(seed=1), iterations=100, tolerance=1e-3)
    assert one.residual <= 1e-3 * one.sharpness


def test_attention_and_its_optimizer() -> None:
    found = stability_in(TransformerNet(batches=104), GATHERED)
    assert found.formula == "2 (1 + 0.9) / (1 - 0.9) / lr"
    assert found.excess is not None
    assert 0 < found.excess < 2
    with pytest.raises(NotYetError, match="AdamW divides by what its first 100 steps gather"):
        stability_in(TransformerNet(), 7)


def test_autocast_and_accumulation() -> None:
    exact = stability_in(Mlp())
    coarse = stability_in(Mlp(), trainer={"precision": "bf16-mixed"})
    assert coarse.sharpness == pytest.approx(exact.sharpness, rel=0.05)
    assert stability_in(Mlp(), trainer={"accumulate_grad_batches": 4}) == exact
    assert stability_in(Mlp(), trainer={"precision": "64-true"}).sharpness == pytest.approx(exact.sharpness, rel=0.01)


class Compiled(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="aot_eager")


def test_a_compiled_net_is_measured_eagerly() -> None:
    torch._dynamo.reset()
    assert stability_in(Compiled()).sharpness == pytest.approx(stability_in(Mlp()).sharpness, rel=1e-3)


class ManualMlp(Mlp):
    """Trained by hand, in one go or in two."""

    def __init__(self, losses: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.losses = losses

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for _ in range(self.losses):
            self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_manual_optimization() -> None:
    assert stability_in(ManualMlp()) == stability_in(Mlp())
    with pytest.raises(CannotReplay, match="The step has 2 losses, and has to have one"):
        stability_in(ManualMlp(2))
    with pytest.raises(CannotReplay, match="not known with 2 optimizers"):
        stability_in(ManualGAN())


class Loss(Mlp):
    """The loss is spoilt."""

    def __init__(self, spoil: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.spoil = spoil

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.spoil(super().training_step(batch, batch_idx))


def fail(loss: Tensor) -> Tensor:
    raise KeyError("label")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda loss: loss * math.nan, CurvatureError, "not finite"),
        (lambda loss: loss * math.inf, CurvatureError, "not finite"),
        (lambda loss: None, CannotReplay, "has 0 losses"),
        (fail, CannotReplay, "raised KeyError: 'label'"),
        (lambda loss: loss.detach(), CurvatureError, "no parameter that requires a gradient reaches the loss"),
    ],
    ids=["NaN", "inf", "none", "raises", "detached"],
)
def test_what_cannot_be_measured(spoil: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stability_in(Loss(spoil))


class Lbfgs(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)


def test_an_optimizer_without_a_bound_has_its_sharpness() -> None:
    found = stability_in(Lbfgs())
    assert found.sharpness == pytest.approx(stability_in(Mlp()).sharpness, rel=0.02)
    assert (found.bound, found.lr, found.excess, found.stable_lr, found.where) == (None, None, None, None, "")
    assert found.no_bound == "no bound on the curvature is known for the steps of LBFGS"


def test_nothing_curves_upwards() -> None:
    flat = Stability(-1.0, 0.0, 3, "SGD group 0", lr=0.1, bound=20.0)
    assert flat.excess == -0.05
    assert flat.stable_lr == math.inf


class Quartic(TinyModule):
    """The loss ``w^4``, whose curvature is ``12 w^2``."""

    def build(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net.weight.pow(4).sum()


def test_at_other_weights() -> None:
    class Ask(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            weight = pl_module.net.weight
            before, version = weight.detach().clone(), weight._version
            self.found = [
                stability_of(trainer, pl_module, batch, batch_idx, weights=at).sharpness
                for at in ({"net.weight": torch.full((1, 1), 3.0)}, {})
            ]
            self.same = torch.equal(weight, before) and weight._version == version
            self.own = 12 * float(before) ** 2

    ask = Ask()
    quiet_trainer(callbacks=[ask], max_steps=1, limit_val_batches=0).fit(Quartic(lr=1e-3))
    assert ask.found == [pytest.approx(108.0, rel=1e-4), pytest.approx(ask.own, rel=1e-4)]
    assert ask.same


def test_the_mean_over_the_ranks() -> None:
    one, other = (Stability(sharpness, residual, 3, lr=0.1, bound=20.0) for sharpness, residual in ((2, 0.1), (6, 0.3)))
    assert of_all_ranks(one) == [one]
    mean = mean_stability([one, "not measured", other])
    assert mean is not None
    assert (mean.sharpness, mean.residual) == (4, 0.3)
    assert mean_stability(["not measured"]) is None
