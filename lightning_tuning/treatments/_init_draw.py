"""Fill one weight and its biases, the same on every rank, without a draw from the run's own random numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_tuning.functional._layers import bias_names
from lightning_tuning.functional._recipes import Recipe, recipe_for
from lightning_tuning.functional.initialization import (
    SchemeName,
    initialize_,
    named_generator,
    set_forget_bias_,
)
from lightning_tuning.runtime.seeding import seeded_for
from lightning_tuning.trace._modules import clean_path
from lightning_tuning.treatments._init_options import InitOptions
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
    if target.choice == "lsuv":  # inside a recurrent layer no output can be scaled
        feeds = "" if target.slot is None else target.slot.feeds
        return Recipe("orthogonal", 1.0, feeds) if feeds in ("gate", "relu", "state") else None
    if target.choice == "auto":
        feeds = "" if target.slot is None else target.slot.feeds
        return recipe_for("relu") if feeds == "relu" else Recipe("xavier", 1.0, feeds) if feeds else None
    scheme = cast("SchemeName", target.choice)
    return Recipe(scheme, nn.init.calculate_gain("relu") if scheme == "he" else 1.0)


@dataclasses.dataclass(frozen=True)
class Painter:
    """Fills weights and biases, and keeps the books; see ``WeightInitCallback``.

    Attributes:
        touched: names of the parameters that were written to.
    """

    root: nn.Module
    report: InitReport
    options: InitOptions
    touched: list[str] = dataclasses.field(default_factory=list)

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
                distribution=self.options.distribution,
                generator=named_generator(self.report.seed, target.name, weight.device),
            )
        layer, bias = type(target.module).__name__, self._fill_biases(target)
        self.touched.extend((target.name, *target.biases))
        self.report.initialized.append(
            WeightInit(target.name, layer, scheme, gain, activation, before, _std(weight), bias)
        )

    def scale(self, name: str, factor: float, scheme: str, variance: tuple[float, float] | None = None) -> None:
        """Multiply a weight that was filled; ``scheme`` is what that makes of it."""
        weight = self.root.get_parameter(name)
        with torch.no_grad():
            weight.mul_(factor)
        gain = self.report.row(name).gain
        self.report.change(
            name, scheme=scheme, gain=None if gain is None else gain * factor, std_after=_std(weight), variance=variance
        )

    def zero(self, target: Target) -> None:
        """Switch off a weight that was filled, with its biases."""
        for name in (target.name, *target.biases):
            nn.init.zeros_(self.root.get_parameter(name))
        bias = "0" if target.biases else ""
        self.report.change(target.name, scheme="zero", gain=None, std_after=0.0, bias=bias)

    def zero_scale(self, name: str) -> None:
        """Switch off the scale of a normalization."""
        nn.init.zeros_(self.root.get_parameter(name))
        self.touched.append(name)
        layer = type(self.root.get_submodule(name.rpartition(".")[0])).__name__
        self.report.initialized.append(WeightInit(name, layer, "zero", None, "residual branch", 0.0, 0.0))

    def set_bias(self, name: str, weight: str, values: Tensor) -> None:
        """Put ``values`` into a bias; ``weight`` is beside it, and may have a row in the report."""
        bias = self.root.get_parameter(name)
        with torch.no_grad():
            bias.copy_(values)
        self.touched.append(name)
        if any(row.name == weight for row in self.report.initialized):
            self.report.change(weight, bias="prior")

    def real_name(self, traced: str) -> str:
        """The name, as ``get_parameter`` takes it, of a parameter that the trace calls ``traced``."""
        return next(name for name, _ in self.root.named_parameters() if clean_path(name) == traced)

    def _call(self, function: Callable[[Tensor], Any], name: str) -> str:
        """Let the user's function fill the parameter; the name of that function."""
        weight = self.root.get_parameter(name)
        with seeded_for(name, self.report.seed, weight.device), torch.no_grad():
            function(weight)
        inner = getattr(function, "func", function)  # of a functools.partial
        return str(getattr(inner, "__name__", type(inner).__name__))

    def _fill_biases(self, target: Target) -> str:
        said = []
        if self.options.bias is not None and target.biases:
            for name in target.biases:
                nn.init.constant_(self.root.get_parameter(name), self.options.bias)
            said.append(f"{self.options.bias:g}")
        lstm = target.module
        forgets = self.options.forget_bias if isinstance(lstm, nn.LSTM | nn.LSTMCell) else None
        if forgets is not None and target.biases and len(target.biases) == len(bias_names(lstm)):
            set_forget_bias_(cast("nn.LSTM", lstm), forgets)  # the sum of two: with one of them alone it would be off
            said.append(f"forget {forgets:g}")
        if self.options.bias is not None or forgets is not None:
            self.report.left_alone.update(dict.fromkeys(target.set_biases, SET))
        return ", ".join(said)


def send_to_all(root: nn.Module, names: Iterable[str]) -> None:
    """Rank 0's values to every rank: DDP does so at its start, which has passed when the first batch comes."""
    if dist.is_available() and dist.is_initialized():
        for name in names:
            dist.broadcast(root.get_parameter(name).detach(), src=0)


def _std(weight: Tensor) -> float:
    return float(weight.detach().float().std(correction=0))
