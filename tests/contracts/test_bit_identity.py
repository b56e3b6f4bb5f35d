"""A run with every check and monitor attached ends bit-identical to the same run without; so does the suite's.

The compiled nets are compiled by :func:`rounds_differently`, whose numbers are not those of the eager net (as
inductor's are not): a step run eagerly for the sake of looking at it would show in the weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_tuning import DropoutBNConflictWarning, TuningSuite
from tests.contracts.discovery import Factory, observers
from tests.helpers import MODEL_KINDS, BNConvNet, DropoutNet, Mlp, TinyModule, quiet_trainer


def rounds_differently(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., list[Any]]:
    """A backend for ``torch.compile``: the eager graph, each floating output off by some 32 ulp."""

    def run(*args: Any) -> list[Any]:
        return [o * (1 + 2**-18) if torch.is_tensor(o) and o.is_floating_point() else o for o in graph(*args)]

    return run


class CompiledNet(Mlp):
    """A part of the net is compiled, as users do it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend=rounds_differently)


class Wrapped(torch.nn.Module):
    """A module of the user's own: ``Module.compile`` leaves torch's (a ``Sequential``) as they are."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class CompiledDropoutNet(DropoutNet):
    """The compiled part draws from the RNG, and was compiled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Wrapped(self.net)
        self.net.compile(backend=rounds_differently)


class FrozenEncoder(TinyModule):
    """A frozen transformer in eval mode, whose fast path an active function mode would switch off."""

    shape = (6, 8)

    def build(self) -> torch.nn.Module:
        layer = torch.nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, 2).requires_grad_(False).eval()
        return torch.nn.ModuleDict({"encoder": encoder, "head": torch.nn.Linear(8, 3)})

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.net["encoder"](x)
        return self.net["head"](tokens.mean(1))

    def on_train_start(self) -> None:
        self.net["encoder"].eval()


KINDS: tuple[type[TinyModule], ...] = (*MODEL_KINDS, CompiledNet, CompiledDropoutNet, FrozenEncoder)


def everything(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "modes": [module.training for module in model.modules()],
        "global_step": trainer.global_step,
    }


def fit(kind: type[TinyModule], callbacks: list[Any], **settings: Any) -> dict[str, Any]:
    torch._dynamo.reset()
    pl.seed_everything(11, verbose=False)
    model = kind()
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=2, **settings)
    trainer.fit(model)
    return everything(trainer, model)


def assert_identical(one: Any, other: Any, path: str = "") -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_identical(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_identical(a, b, f"{path}[{index}]")
    else:
        assert one == other, path


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode:UserWarning")  # the frozen encoder, on purpose
@pytest.mark.parametrize("attached", [observers, lambda: [TuningSuite()]], ids=["observers", "suite"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_observers_change_nothing(kind: type[TinyModule], attached: Factory) -> None:
    assert_identical(fit(kind, []), fit(kind, attached()))


SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "accumulation": lambda: {"accumulate_grad_batches": 3},
    "clipping": lambda: {"gradient_clip_val": 0.1},
    "inference off": lambda: {"inference_mode": False},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", [BNConvNet, DropoutNet], ids=lambda kind: kind.__name__)
def test_the_suite_changes_nothing_under(setting: str, kind: type[TinyModule]) -> None:
    assert_identical(fit(kind, [], **SETTINGS[setting]()), fit(kind, [TuningSuite()], **SETTINGS[setting]()))


def test_the_comparison_can_fail() -> None:
    class Meddler(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            torch.rand(1)

    with pytest.raises(AssertionError, match="net"):
        assert_identical(fit(DropoutNet, []), fit(DropoutNet, [Meddler()]))


@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's, which can't trace the recorder's hooks
@pytest.mark.parametrize("kind", [CompiledNet, CompiledDropoutNet, FrozenEncoder], ids=lambda kind: kind.__name__)
def test_recording_the_real_step_of_these_would_show(kind: type[TinyModule], monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps them apart is the refusal to record them live, so without it the comparison has to fail."""
    monkeypatch.setattr("lightning_tuning.runtime.tracing.why_not_live", lambda module: None)
    with pytest.raises(AssertionError, match="net"):
        assert_identical(fit(kind, []), fit(kind, [DropoutBNConflictWarning()]))


@pytest.mark.parametrize("kind", [CompiledNet, CompiledDropoutNet], ids=lambda kind: kind.__name__)
def test_the_compiled_numbers_are_not_the_eager_ones(kind: type[TinyModule]) -> None:
    compiled = fit(kind, [])
    with torch.compiler.set_stance("force_eager"), pytest.raises(AssertionError, match="net"):
        assert_identical(compiled, fit(kind, []))
