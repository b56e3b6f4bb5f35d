"""Fill one weight and its biases, the same on every rank, without a draw from the run's own random numbers."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_tuning.functional._layers import bias_names
from lightning_tuning.functional._recipes import Recipe, recipe_for
from lightning_tuning.functional.initialization import (
    Distribution,
    SchemeName,
    initialize_,
    named_generator,
    set_forget_bias_,
)
from lightning_tuning.trace.rng import RngState
from lightning_tuning.treatments._init_report import InitReport, WeightInit
from lightning_tuning.treatments._init_survey import SET, Target
from lightning_tuning.treatments._init_trace import Use

__all__ = ["Painter", "layer_recipe", "send_to_all"]


def layer_recipe(target: Target) -> Recipe | None:
    """What ``target`` gets, if no trace is needed to say so and no function of the user's does it."""
    if callable(target.choice):
        return None
    if target.slot is not None and target.slot.recurrent:
        # A state comes back again and again: only an orthogonal map keeps its length (Saxe et al. 2014).
        return Recipe("orthogonal", 1.0, "recurrent")
    if target.choice == "auto":
        feeds = "" if target.slot is None else target.slot.feeds
        return recipe_for("relu") if feeds == "relu" else Recipe("xavier", 1.0, feeds) if feeds else None
    scheme = cast("SchemeName", target.choice)
    return Recipe(scheme, nn.init.calculate_gain("relu") if scheme == "he" else 1.0)


@dataclasses.dataclass(frozen=True)
class Painter:
    """Fills weights and biases, and keeps the books; see ``WeightInitCallback``."""

    root: nn.Module
    report: InitReport
    distribution: Distribution
    bias: float | None
    forget_bias: float | None

    def fill(self, target: Target, use: Use | None) -> None:
        """Initialise ``target`` and its biases in place; ``use`` is ``None`` where a function of the user's does it."""
        weight = self.root.get_parameter(target.name)
        before = _std(weight)
        if use is None:
            scheme, gain, activation = self._call(cast("Callable[[Tensor], Any]", target.choice), target.name), None, ""
        else:
            scheme, gain, activation = use.recipe.scheme, use.recipe.gain, use.recipe.activation
            initialize_(
                weight.detach(),
                scheme,
                gain=gain,
                fans=use.fans if target.slot is None else target.slot.fans,
                blocks=use.blocks if target.slot is None else target.slot.blocks,
                distribution=self.distribution,
                generator=named_generator(self.report.seed, target.name, weight.device),
            )
        layer, bias = type(target.module).__name__, self._fill_biases(target)
        self.report.initialized.append(
            WeightInit(target.name, layer, scheme, gain, activation, before, _std(weight), bias)
        )

    def _call(self, function: Callable[[Tensor], Any], name: str) -> str:
        """Let the user's function fill the parameter; the name of that function."""
        weight = self.root.get_parameter(name)
        with _seeded(self.report.seed, name, weight), torch.no_grad():
            function(weight)
        inner = getattr(function, "func", function)  # of a functools.partial
        return str(getattr(inner, "__name__", type(inner).__name__))

    def _fill_biases(self, target: Target) -> str:
        said = []
        if self.bias is not None and target.biases:
            for name in target.biases:
                nn.init.constant_(self.root.get_parameter(name), self.bias)
            said.append(f"{self.bias:g}")
        lstm = target.module
        forgets = self.forget_bias if isinstance(lstm, nn.LSTM | nn.LSTMCell) else None
        if forgets is not None and target.biases and len(target.biases) == len(bias_names(lstm)):
            set_forget_bias_(cast("nn.LSTM", lstm), forgets)  # the sum of two: with one of them alone it would be off
            said.append(f"forget {forgets:g}")
        if self.bias is not None or forgets is not None:
            self.report.left_alone.update(dict.fromkeys(target.set_biases, SET))
        return ", ".join(said)


def send_to_all(root: nn.Module, names: Iterable[str]) -> None:
    """Rank 0's values to every rank: DDP does so at its start, which has passed when the first batch comes."""
    if dist.is_available() and dist.is_initialized():
        for name in names:
            dist.broadcast(root.get_parameter(name).detach(), src=0)


@contextmanager
def _seeded(seed: int, name: str, weight: Tensor) -> Iterator[None]:
    """Global generators seeded for ``name``, then as they were: a user's function may draw from any of them."""
    state = RngState.capture()
    number = named_generator(seed, name).initial_seed()
    try:
        torch.default_generator.manual_seed(number)
        if weight.device.type != "cpu":  # `torch.manual_seed` would also seed devices that are not in use yet, for good
            device: Any = torch.get_device_module(weight.device)
            device.manual_seed(number)
        random.seed(number)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(number)
        yield
    finally:
        state.restore()


def _std(weight: Tensor) -> float:
    return float(weight.detach().float().std(correction=0))
