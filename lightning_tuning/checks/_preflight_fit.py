"""One batch, fitted over and over, apart from the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from lightning_tuning.checks._preflight_batch import with_tensors
from lightning_tuning.checks._preflight_step import Keeper, Rehearsal, Seen, Take
from lightning_tuning.checks._preflight_terms import term_accuracy, term_value
from lightning_tuning.rules._ops import DROPOUTS
from lightning_tuning.trace import Recorder, aside
from lightning_tuning.trace._step import step_arguments

__all__ = ["Fitted", "fit_batch", "trained_parameters"]

LOOK_EVERY = 20  # iterations; recording a step costs several plain ones

Losses = list[float]


@dataclasses.dataclass
class Fitted:
    """How fitting one batch went.

    Attributes:
        losses: of each iteration, before its update.
        terms: the terms of the loss alone, by iteration, where they were looked at; not what else is added to it.
        accuracy: the lowest of the terms' accuracies when last looked at; ``None`` where there are no classes.
        least: the lowest value that the terms can have: 0, or ``None`` if not known.
        spread: how much the output differs between samples, relative to its size, when last looked at.
        reason: what it was stopped by: ``"loss"``, ``"accuracy"``, ``"time"``, ``"no loss"``, ``"not finite"`` or
            ``"iterations"``.
    """

    losses: Losses = dataclasses.field(default_factory=list)
    terms: dict[int, float] = dataclasses.field(default_factory=dict)
    accuracy: float | None = None
    least: float | None = None
    spread: float | None = None
    reason: str = "iterations"

    @property
    def first(self) -> float:
        """Loss before the first update."""
        return self.losses[0] if self.losses else math.nan

    @property
    def best(self) -> float:
        """The lowest loss."""
        return min((loss for loss in self.losses if math.isfinite(loss)), default=math.nan)

    @property
    def ratio(self) -> float:
        """The lowest loss in units of the first."""
        return self.best / self.first if self.first > 0 else math.nan

    @property
    def has_succeeded(self) -> bool:
        """It fits the batch."""
        return self.reason in ("loss", "accuracy")

    @property
    def is_improving(self) -> bool:
        """The last quarter of the iterations still brought 5 %."""
        start = len(self.losses) * 3 // 4
        before, after = min(self.losses[:start], default=math.nan), min(self.losses[start:], default=math.nan)
        return after < 0.95 * before

    @property
    def is_explained(self) -> bool:
        """The loss is its terms, but for a constant factor; nothing else is added to it."""
        factors = [self.losses[i] / value for i, value in self.terms.items() if value > 1e-6 * max(self.terms.values())]
        return bool(factors) and max(factors) - min(factors) <= 0.02 * abs(max(factors))


def fit_batch(rehearsal: Rehearsal, batch: Any, *, lr: float, iterations: int, target: float) -> Fitted:
    """Fit ``batch`` by Adam without dropout, with the same random numbers in every iteration; all of it is undone.

    Args:
        rehearsal: the step.
        batch: what is fitted.
        lr: of Adam.
        iterations: at most.
        target: it is enough when the loss is below so many times the first one, or all classes are right.
    """
    trainer, module = rehearsal.trainer, rehearsal.pl_module
    fitted = Fitted()
    names = rehearsal.term_names
    arguments = step_arguments(module, batch, rehearsal.batch_idx, 0)
    with ExitStack() as stack:
        stack.enter_context(aside(trainer, module, batch=batch))
        stack.enter_context(rehearsal.alone())
        stack.enter_context(torch.enable_grad())
        _without_dropout(module)
        parameters = trained_parameters(rehearsal)
        optimizer = torch.optim.Adam(parameters, lr=lr)
        stack.enter_context(NoDropout())

        def step(context: Any) -> Tensor | None:
            rehearsal.rng.restore()
            (_, *others), keywords = arguments
            with context, trainer.precision_plugin.train_step_context():
                output = module.training_step(with_tensors(batch, Tensor.clone), *others, **keywords)
            loss = output.get("loss") if isinstance(output, Mapping) else output
            return loss if isinstance(loss, Tensor) and loss.requires_grad else None

        for iteration in range(iterations):
            if rehearsal.clock.is_over:
                fitted.reason = "time"
                break
            is_look = names and (iteration % LOOK_EVERY == 0 or iteration == iterations - 1)
            keeper = Keeper(names)
            recorder = Recorder(module, batch, [keeper])
            loss = step(recorder if is_look else nullcontext())
            if loss is None:
                fitted.reason = "no loss"
                break
            fitted.losses.append(float(loss.detach()))  # a device read per iteration, of a run that is not the user's
            if is_look:
                recorder.mark_loss(loss)
                _note(fitted, iteration, Take(recorder.graph, [loss], keeper.seen).terms)
            if reason := _end(fitted, target):
                fitted.reason = reason
                break
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                known: Tensor | None = gradient  # of a parameter that is not used there is none
                parameter.grad = known.to_dense() if known is not None and known.is_sparse else known
            optimizer.step()
            rehearsal.tick()
    return fitted


def trained_parameters(rehearsal: Rehearsal) -> list[Tensor]:
    """What the optimizers of the run train."""
    groups = (group for optimizer in rehearsal.trainer.optimizers for group in optimizer.param_groups)
    parameters = {id(p): p for group in groups for p in group["params"] if p.requires_grad}
    return list(parameters.values())


def _end(fitted: Fitted, target: float) -> str:
    last = fitted.losses[-1]
    if not math.isfinite(last):
        return "not finite"
    if fitted.first > 0 and last < target * fitted.first:
        return "loss"
    return "accuracy" if fitted.accuracy == 1 else ""


class NoDropout(TorchFunctionMode):
    """Inside it functional dropout lets everything through, and attention drops nothing."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything else through as it is."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removesuffix("_")
        if name in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if name == "scaled_dot_product_attention":
            if len(args) > 4:  # query, key, value, attn_mask, dropout_p
                args = (*args[:4], 0.0, *args[5:])
            else:
                kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


def _without_dropout(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _DropoutNd):
            part.eval()
        elif isinstance(part, nn.RNNBase | nn.MultiheadAttention):
            part.dropout = 0.0


def _note(fitted: Fitted, iteration: int, terms: list[Seen]) -> None:
    """Look at the terms of the loss: their values without what else is added, accuracy, spread."""
    with torch.no_grad():
        values = [term_value(seen) for seen in terms]
        if terms and all(value is not None for value in values):
            fitted.terms[iteration] = float(sum(value for value in values if value is not None))
            fitted.least = 0.0
        accuracies = [accuracy for seen in terms if (accuracy := term_accuracy(seen)) is not None]
        fitted.accuracy = min(accuracies) if accuracies and len(accuracies) == len(terms) else None
        if terms:
            rows = terms[0].prediction.detach().double().flatten(1) if terms[0].prediction.dim() > 1 else None
            if rows is None:
                rows = terms[0].prediction.detach().double().reshape(-1, 1)
            size = float(rows.square().mean().sqrt())
            fitted.spread = float(rows.std(0, correction=0).mean()) / size if size > 0 else 0.0
