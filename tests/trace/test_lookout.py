from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from torch.utils.checkpoint import checkpoint

from lightning_tuning.trace import Recorder
from lightning_tuning.trace.lookout import Lookout, Site


class Net(nn.Module):
    """Modules, functions, a loop, and a helper module that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 8), nn.Linear(8, 8), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        for _ in range(3):
            x = torch.tanh(self.second(x))
        return F.relu(self.act(x)).sum()


def seen_by(net: nn.Module, step: Any, names: Any = ("relu", "tanh")) -> list[tuple[Site, int, Tensor]]:
    shown: list[tuple[Site, int, Tensor]] = []
    lookout = Lookout(net, names, lambda site, nth, args, kwargs, made: shown.append((site, nth, made.clone())))
    lookout.start()
    try:
        step()
    finally:
        lookout.stop()
    assert lookout.error is None
    assert _get_current_function_mode() is None
    return shown


def test_it_sees_what_the_trace_saw_at_the_same_places() -> None:
    net, x = Net(), torch.randn(2, 4)

    def step() -> Tensor:
        return net(x)

    with Recorder(net, x) as recorder:
        recorder.mark_loss(step())
    traced = [Site.of(op) for op in recorder.graph.ops if op.name in ("relu", "tanh")]
    assert [site for site, _, _ in seen_by(net, step)] == traced
    assert [nth for site, nth, _ in seen_by(net, step) if site.name == "tanh"] == [0, 1, 2]


def test_results_are_shown_as_they_are_after_the_call() -> None:
    net, x = Net(), torch.randn(2, 4)
    made = seen_by(net, lambda: net(x))[0][2]
    torch.testing.assert_close(made, net.first(x).relu())


class Checkpointed(Net):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(lambda x: self.act(self.first(x)), x, use_reentrant=self.reentrant)
        return self.second(x).sum()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_is_not_shown(reentrant: bool) -> None:
    net, x = Checkpointed(reentrant=reentrant), torch.randn(2, 4, requires_grad=True)
    assert len(seen_by(net, lambda: net(x).backward())) == 1


def test_what_runs_without_gradients_is_not_shown() -> None:
    net, x = Net(), torch.randn(2, 4)
    with torch.no_grad():
        assert seen_by(net, lambda: net(x)) == []


def test_a_failure_is_kept_and_the_step_goes_on() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a mistake")

    net = Net()
    lookout = Lookout(net, {"relu"}, fail)
    lookout.start()
    assert net(torch.ones(1, 4)).isfinite()
    lookout.stop()
    assert str(lookout.error) == "a mistake"
    lookout.start()
    assert lookout.error is None
    lookout.stop()
    lookout.stop()  # twice does nothing


def test_a_mode_that_was_entered_later_stays() -> None:
    lookout = Lookout(Net(), {"relu"}, lambda *_: None)
    lookout.start()
    with torch.device("cpu"):
        mode = _get_current_function_mode()
        lookout.stop()
        assert _get_current_function_mode() is mode
    assert _get_current_function_mode() is None
