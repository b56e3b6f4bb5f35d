"""No steady-state step of an observer reads from an accelerator, seen on fake CUDA tensors.

``.cpu()`` alone passes silently on fake tensors, so a dispatch mode rejects every read of a scalar and every copy from
the device to the host; the meter's landing is the one place where the copy is allowed, and it must be non-blocking.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import unittest.mock
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim.lr_scheduler import StepLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_tuning import (
    AdaptiveClipGuard,
    DecoupledWeightDecay,
    L1Penalty,
    MaxNormConstraint,
    UpdateMonitor,
    functional,
)
from lightning_tuning.checks import Preflight
from lightning_tuning.measure import GradientNorms, Landing, Meter
from lightning_tuning.measure.gradients import GradientReader
from lightning_tuning.measure.sharding import sharded_norms
from lightning_tuning.runtime import Desk
from lightning_tuning.trace.stability import NotYetError
from tests.contracts import discovery

DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


class HostReadError(AssertionError):
    pass


class NoHostRead(TorchDispatchMode):
    """Rejects device-to-host traffic; ``landings`` of them may pass if they do not block."""

    def __init__(self, landings: int = 0) -> None:
        super().__init__()
        self.landings = landings

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0]  # needs a real generator of the device; a draw reads nothing back
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise HostReadError(f"{func} reads a scalar")
        out = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        leaves = any(t.device.type == "cuda" for t in inputs) and any(t.device.type == "cpu" for t in outputs)
        if leaves or (
            func is torch.ops.aten.copy_.default and args[0].device.type == "cpu" and args[1].device.type == "cuda"
        ):
            if self.landings and kwargs.get("non_blocking"):
                self.landings -= 1
            else:
                raise HostReadError(f"{func} copies from the device to the host")
        return out


@contextlib.contextmanager
def fake_tensors() -> Iterator[Callable[..., Tensor]]:
    """Inside, ``make(*shape, dtype=...)`` gives fake CUDA tensors. (Never send them backward: that crashes.)"""
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="cuda")


@contextlib.contextmanager
def fake_cuda(landings: int = 0) -> Iterator[Callable[..., Tensor]]:
    """Likewise, and host reads raise."""
    with fake_tensors() as make, NoHostRead(landings):
        yield make


@pytest.mark.parametrize(
    "read",
    [lambda t: t.sum().item(), lambda t: t.cpu(), lambda t: t.to("cpu", non_blocking=True), lambda t: bool(t.any())],
    ids=["item", "cpu", "to", "bool"],
)
def test_the_mode_rejects(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(HostReadError), fake_cuda() as make:
        read(make(4))


def test_a_blocking_copy_is_no_landing() -> None:
    with pytest.raises(HostReadError), fake_cuda(landings=1) as make:
        make(4).cpu()


def lstm_on(make: Callable[..., Tensor]) -> nn.LSTM:
    lstm = nn.LSTM(3, 2, device="meta")
    for name, parameter in list(lstm.named_parameters()):
        setattr(lstm, name, nn.Parameter(make(*parameter.shape)))
    return lstm


def with_gradient(make: Callable[..., Tensor], *shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    parameter = nn.Parameter(make(*shape, dtype=dtype))
    parameter.grad = make(*shape, dtype=dtype)
    return parameter


CASES: dict[str, Callable[[Callable[..., Tensor]], Any]] = {
    "adaptive_gradient_clip_": lambda make: functional.adaptive_gradient_clip_(
        [with_gradient(make, 4, 3), with_gradient(make, 4, dtype=torch.float16)], 0.1, scale=make(())
    ),
    "add_elastic_net_gradients_": lambda make: functional.add_elastic_net_gradients_(
        [with_gradient(make, 4, 3)], 0.1, 0.1, scale=make(())
    ),
    "clip_coefficient": lambda make: functional.clip_coefficient(make(()), make(())),
    "clip_values_": lambda make: functional.clip_values_([make(3), make(2, dtype=torch.complex64)], make(())),
    "decay_": lambda make: functional.decay_(make(3), make(())),
    "elastic_net": lambda make: functional.elastic_net([make(3), make(4, dtype=torch.float16)], 0.1, 0.1),
    "percentile_threshold": lambda make: functional.percentile_threshold(make(10)),
    "push_norm_": lambda make: functional.push_norm_(make(10), make((), dtype=torch.int64), make(())),
    "renorm_units_": lambda make: functional.renorm_units_(make(3, 4), 1.0),
    "scale_gradients_": lambda make: functional.scale_gradients_([make(3), make(2, dtype=torch.float16)], make(())),
    "soft_threshold_": lambda make: functional.soft_threshold_(make(3), make(())),
    "unit_dims": lambda make: functional.unit_dims(lstm_on(make)),
    "updated_norm_statistics": lambda make: functional.updated_norm_statistics(
        make(()), make(()), make((), dtype=torch.int64), make(())
    ),
    "zero_counts": lambda make: functional.zero_counts([make(3), make(4)]),
    "zscore_threshold": lambda make: functional.zscore_threshold(make(()), make(())),
    "activation_gain": lambda make: None,  # takes a function and no tensor, gives a float
    "fan_in_and_fan_out": lambda make: functional.fan_in_and_fan_out(make(4, 3, 5, 5)),
    "fingerprint": lambda make: [
        functional.fingerprint(make(3, 5, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16, torch.complex64)
    ],
    "global_norm": lambda make: functional.global_norm(make(7)),
    "hessian_top_eigenvalue": lambda make: (
        None
    ),  # autograd can't run on a fake device; its own tests show it on the CPU
    "initial_std": lambda make: functional.initial_std("he", 3, 4),
    "initialize_": lambda make: [
        functional.initialize_(make(16, 8), scheme, distribution=distribution)
        for scheme in ("he", "xavier", "lecun")  # torch's own orthogonal_ can't run on a fake device
        for distribution in ("normal", "uniform")
    ],
    "param_groups": lambda make: functional.param_groups(lstm_on(make), 0.1, layer_decay=0.5, weight_decay=0.1),
    "load_state": lambda make: None,  # reads a file, and says so: weights that are not finite are refused
    "set_forget_bias_": lambda make: functional.set_forget_bias_(lstm_on(make)),
    "split_decay_groups": lambda make: functional.split_decay_groups(lstm_on(make), 0.1),
    "suggest_lr": lambda make: None,  # takes numbers of the host, gives some
    "top_eigenvalue": lambda make: functional.top_eigenvalue(lambda x: [2 * x[0]], [make(4)], iterations=3)[:2],
    "join_norms": lambda make: functional.join_norms([make(()), make(())]),
    "separate_norms": lambda make: functional.separate_norms([make(3, 4), make(5), make(2, dtype=torch.float16)]),
    "apply_dropout": lambda make: None,  # takes a module and looks at no value of it
    "convert_batch_norm": lambda make: None,  # likewise: the new modules hold the same tensors
    "dropout_rate": lambda make: None,  # takes numbers, gives one
    "fixup_scale": lambda make: None,  # takes numbers, gives one
    "frozen": lambda make: None,  # takes a module and looks at no value of it
    "initialize_layer_": lambda make: None,  # of it a part can't run on a fake device: copy_, renorm or a slice
    "log_odds_prior": lambda make: functional.log_odds_prior(make(()), 8.0),
    "log_prior": lambda make: functional.log_prior(make(5)),
    "momentum_at": lambda make: None,  # takes numbers, gives one
    "recalibrate_batch_norm": lambda make: None,  # no module of torch with counters can be made on a fake device
    "schedule_lr_config": lambda make: None,  # takes an optimizer's rates, which lie on the host
    "set_momentum_": lambda make: None,  # likewise
    "unit_variance_scale": lambda make: None,  # gives numbers: it reads a variance, once for each layer of a net
    "tensor_norms": lambda make: functional.tensor_norms([make(3, 4), make(5), make(2, dtype=torch.float16)]),
}


def functional_names() -> list[str]:
    return [n for n in functional.__all__ if inspect.isfunction(getattr(functional, n))]


@pytest.mark.parametrize("name", functional_names())
def test_functional_reads_nothing(name: str) -> None:
    assert name in CASES, f"`{name}` has no case here: every function in `functional/` must be shown not to read"
    with fake_cuda() as make:
        out = CASES[name](make)
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        assert all(isinstance(t, FakeTensor) and t.device.type == "cuda" for t in tensors)


def test_norms_of_plain_gradients_read_nothing() -> None:
    with fake_cuda() as make:
        norms = sharded_norms([make(3, 4), make(5)])
        assert norms.device.type == "cuda"


class Event:
    """Stands for a CUDA event: finished at the second query."""

    def __init__(self) -> None:
        self.queries = 0
        self.recorded = self.waited = False

    def record(self) -> None:
        self.recorded = True

    def query(self) -> bool:
        self.queries += 1
        return self.queries > 1

    def synchronize(self) -> None:
        self.waited = True


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    made: list[Event] = []

    def make() -> Event:
        made.append(Event())
        return made[-1]

    monkeypatch.setattr(torch, "get_device_module", lambda device: type("module", (), {"Event": staticmethod(make)}))
    return made


def test_landing_copies_once_and_never_waits(events: list[Event]) -> None:
    landing = Landing()
    received: list[Any] = []
    with fake_cuda(landings=1) as make:
        landing.send([make(()), make(5)], received.append)
        landing.collect()
    assert len(landing) == 1, "the copy was still under way: nothing may be handed on"
    assert [event.recorded for event in events] == [True]
    assert not events[0].waited
    assert received == []


class Net(pl.LightningModule):
    """Parameters on the fake device, with gradients; no step is ever run on them."""

    automatic_optimization = True

    def __init__(self, make: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.coarse, self.unused = (
            nn.Parameter(make(*shape, dtype=dtype))
            for shape, dtype in (
                ((16, 8), torch.float32), ((16,), torch.float32), ((1, 16), torch.bfloat16), ((2,), torch.float32)
            )
        )  # fmt: skip
        for parameter in (self.weight, self.bias, self.coarse):
            parameter.grad = make(*parameter.shape, dtype=parameter.dtype)


class Optimizer:
    """Stands for one: its parameters, and whether it is fused."""

    def __init__(self, module: nn.Module, *, fused: bool = False) -> None:
        self.param_groups = [{"params": list(module.parameters()), "lr": 0.1}]
        self._step_supports_amp_scaling = fused
        self.after: list[Callable[..., None]] = []

    def register_step_post_hook(self, hook: Callable[..., None]) -> SimpleNamespace:
        self.after.append(hook)
        return SimpleNamespace(remove=self.after.clear)

    def step(self) -> None:
        for hook in self.after:
            hook(self, (), {})


class Run:
    """Stands for a trainer in mid-fit on one CUDA device."""

    barebones = sanity_checking = False
    accumulate_grad_batches = log_every_n_steps = world_size = num_nodes = 1
    current_epoch = global_step = global_rank = 0
    estimated_stepping_batches = 100
    max_epochs = max_steps = -1
    num_training_batches, limit_train_batches, fast_dev_run, overfit_batches = 100, 1.0, False, 0
    ckpt_path = None
    is_global_zero = True
    gradient_clip_val, gradient_clip_algorithm, precision = 1.0, "value", "32-true"

    def __init__(self, module: pl.LightningModule, scale: Tensor | None = None, *, fused: bool = False) -> None:
        self.lightning_module = self.model = module
        self.optimizers = [Optimizer(module, fused=fused)]
        self.callbacks: list[Any] = []
        self.loggers: list[Any] = [SimpleNamespace(log_metrics=self.log)]
        self.logged: list[dict[str, float]] = []
        self.strategy = SimpleNamespace(root_device=torch.device("cuda"))
        self.precision_plugin = SimpleNamespace(scaler=None if scale is None else SimpleNamespace(_scale=scale))
        scheduler = StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), step_size=10)  # rates are on the host
        self.lr_scheduler_configs = [SimpleNamespace(scheduler=scheduler, interval="step", frequency=1, monitor=None)]
        stepped = SimpleNamespace(total=SimpleNamespace(completed=0))
        epoch_loop = SimpleNamespace(_batches_that_stepped=0, scheduler_progress=stepped, total_batch_idx=0)
        self.fit_loop = SimpleNamespace(epoch_loop=epoch_loop)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append(metrics)


def step(trainer: Any, callbacks: list[Any], make: Callable[..., Tensor]) -> None:
    """The hooks of one batch, in Lightning's order."""
    batch, loss = [make(4, 8), make(4, dtype=torch.int64)], make(())
    arguments: dict[str, tuple[Any, ...]] = {
        "on_train_batch_start": (batch, trainer.global_step),
        "on_before_backward": (loss,),
        "on_after_backward": (),
        "on_before_optimizer_step": (trainer.optimizers[0],),
        "on_train_batch_end": ({"loss": loss}, batch, trainer.global_step),
    }
    for hook, given in arguments.items():
        if hook == "on_train_batch_end":
            trainer.global_step += 1
        for callback in callbacks:
            if callable(call := getattr(callback, hook)):  # as Lightning does
                call(trainer, trainer.lightning_module, *given)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused with a GradScaler"])
def test_the_meter_lands_once_per_batch(fused: bool, events: list[Event]) -> None:
    with fake_tensors() as make:
        trainer = Run(Net(make), make(()) if fused else None, fused=fused)
        meter = Meter(trainer)
        meter.subscribe(lambda reading: None)
        for batch in range(1, 4):
            with NoHostRead(landings=1) as mode:
                norms = meter.gradient_norms(trainer.optimizers[0], "first")
                assert meter.gradient_norms(trainer.optimizers[0], "second") is norms
                trainer.global_step += 1
                meter.on_batch_end(make(()))
            assert mode.landings == 0
            assert norms.names == ("weight", "bias", "coarse")
            assert norms.each.device.type == norms.total.device.type == "cuda"
            assert len(events) == batch
            forget_queries(events)
    assert not any(event.waited for event in events)
    assert trainer.logged == []


@pytest.fixture(autouse=True)
def _after_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preflight, "_fly", lambda *_: True)  # its trials come before the first step: no steady one
    too_early = unittest.mock.Mock(side_effect=NotYetError)  # nor is one that StabilityProbe measures
    monkeypatch.setattr("lightning_tuning.monitors.stability_probe.stability_of", too_early)


WAYS = {
    **{name: functools.partial(discovery.make, name) for name in discovery.OBSERVERS},
    "UpdateMonitor at every step": lambda: UpdateMonitor(every_n_steps=1),
}


@pytest.mark.parametrize("name", WAYS)
def test_no_observer_reads_in_a_steady_step(name: str, events: list[Event]) -> None:
    with fake_tensors() as make:
        module = Net(make)
        trainer = Run(module)
        callback = WAYS[name]()
        callback.setup(trainer, module, "fit")
        desk = Desk.of(trainer)
        desk.tracer = type(desk.tracer)()  # the first step, which is traced, is not a steady one
        for starting in (callback, desk):
            starting.on_train_start(trainer, module)
        for _ in range(12):  # some send their numbers every few batches
            with NoHostRead(landings=1):
                step(trainer, [callback, desk], make)
            forget_queries(events)
    assert not any(event.waited for event in events)
    assert desk in trainer.callbacks


ACTING = {
    **{
        f"AdaptiveClipGuard by {method}": functools.partial(AdaptiveClipGuard, method, threshold=threshold)
        for method, threshold in (("percentile", None), ("zscore", 2.5), ("agc", 0.1), ("norm", 1.0), ("value", 1.0))
    },
    "L1Penalty": L1Penalty,
    "L1Penalty by proximal steps": lambda: L1Penalty(l2=0.1, proximal=True),
    "DecoupledWeightDecay": lambda: DecoupledWeightDecay(0.1),
    "MaxNormConstraint": MaxNormConstraint,
}
"""What acts, and promises to read nothing all the same."""


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused with a GradScaler"])
@pytest.mark.parametrize("name", ACTING)
def test_what_acts_on_the_device_reads_nothing(name: str, fused: bool, events: list[Event]) -> None:
    with fake_tensors() as make:
        module = Net(make)
        trainer = Run(module, make(()) if fused else None, fused=fused)
        trainer.gradient_clip_val = None
        callback = ACTING[name]()
        callback.setup(trainer, module, "fit")
        desk = Desk.of(trainer)
        for starting in (callback, desk):
            starting.on_train_start(trainer, module)
        for _ in range(3):
            with NoHostRead(landings=1):
                step(trainer, [callback, desk], make)
                if fused:
                    trainer.optimizers[0].found_inf = make(())
                trainer.optimizers[0].step()
            forget_queries(events)
    assert not any(event.waited for event in events)


def forget_queries(events: list[Event]) -> None:
    """The device lags behind: nothing has arrived."""
    for event in events:
        event.queries = 0


def test_a_read_in_the_meter_is_caught(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    read = GradientReader.read

    def reading(self: GradientReader, optimizer: Any) -> GradientNorms:
        norms = read(self, optimizer)
        return dataclasses.replace(norms, total=norms.each.sum().item())

    monkeypatch.setattr(GradientReader, "read", reading)
    with pytest.raises(HostReadError, match="reads a scalar"):
        test_the_meter_lands_once_per_batch(False, events)
    with pytest.raises(HostReadError, match="reads a scalar"):
        test_no_observer_reads_in_a_steady_step("GradientExplosionMonitor", events)


def test_a_second_landing_is_caught(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    send = Meter._send

    def twice(self: Meter, *arguments: Any) -> None:
        send(self, *arguments)
        send(self, *arguments)

    monkeypatch.setattr(Meter, "_send", twice)
    with pytest.raises(HostReadError, match="copies"):
        test_the_meter_lands_once_per_batch(False, events)
