"""No steady-state step of an observer reads from an accelerator, seen on fake CUDA tensors.

``.cpu()`` alone passes silently on fake tensors, so a dispatch mode rejects every read of a scalar and every copy from
the device to the host; the meter's landing is the one place where the copy is allowed, and it must be non-blocking.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_tuning import functional
from lightning_tuning.measure import Landing
from lightning_tuning.measure.sharding import sharded_norms

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
def fake_cuda(landings: int = 0) -> Iterator[Callable[..., Tensor]]:
    """Inside, ``make(*shape, dtype=...)`` gives fake CUDA tensors, and host reads raise."""
    with FakeTensorMode(allow_non_fake_inputs=False), NoHostRead(landings):
        yield lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="cuda")


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


CASES: dict[str, Callable[[Callable[..., Tensor]], Any]] = {
    "activation_gain": lambda make: None,  # takes a function and no tensor, gives a float
    "fan_in_and_fan_out": lambda make: functional.fan_in_and_fan_out(make(4, 3, 5, 5)),
    "global_norm": lambda make: functional.global_norm(make(7)),
    "initial_std": lambda make: functional.initial_std("he", 3, 4),
    "initialize_": lambda make: [
        functional.initialize_(make(16, 8), scheme, distribution=distribution)
        for scheme in ("he", "xavier", "lecun")  # torch's own orthogonal_ can't run on a fake device
        for distribution in ("normal", "uniform")
    ],
    "set_forget_bias_": lambda make: functional.set_forget_bias_(lstm_on(make)),
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
        norms = sharded_norms([make(3, 4), make(5)], flat_pieces=False)
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


def test_the_way_of_a_gradient_norm(events: list[Event]) -> None:
    """Measure, send, look: one copy, no wait."""
    with fake_cuda(landings=1) as make:
        gradients = [make(16, 8), make(16), make(1, 16, dtype=torch.bfloat16)]
        each = sharded_norms(gradients, flat_pieces=False)
        landing = Landing()
        landing.send([make(()), functional.global_norm(each), each], lambda numbers: None)
        landing.collect()
    assert len(events) == 1
