"""Updates at learning rates of one's choice, apart from the run, with everything put back after them."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.trace import aside
from lightning_tuning.trace._step import run_backward, step_arguments
from lightning_tuning.treatments._lr_batches import batches_aside
from lightning_tuning.treatments._lr_rates import rate_ratios, set_rate_aside

__all__ = ["train_aside"]

_NO_LOSS = 20  # windows in a row without a loss: there will be none


def train_aside(
    trainer: Trainer,
    pl_module: LightningModule,
    rates: Iterable[float | None],
    is_over: Callable[[Sequence[float]], bool] | None = None,
) -> list[float]:
    """Losses of the training steps of a run that updates its weights at ``rates``, one after the other.

    A step is a window of gradient accumulation, clipped as the run clips; its loss, the mean over batches and ranks, is
    that of before the update. Every rank must call it and gets the same losses. All of it is undone: see
    :func:`~lightning_tuning.trace.aside`; and the optimizer's state, its hooks and the batches of the run.

    Args:
        trainer: the trainer of the run, with one optimizer.
        pl_module: its LightningModule.
        rates: of the group with the largest rate; the others keep their ratio to it. ``None``: no update.
        is_over: is shown the losses after each step; true ends it.

    Raises:
        CannotReplay: if a step cannot be run aside.
        MisconfigurationException: if no batch can be had aside.
    """
    (optimizer,) = trainer.optimizers
    losses: list[float] = []
    with (
        aside(trainer, pl_module),
        closing(batches_aside(trainer, pl_module)) as batches,  # type: ignore[type-var]  # a generator
        _state_apart(optimizer),
        torch.enable_grad(),
    ):
        steps = _Steps(trainer, pl_module, optimizer, batches)
        for rate in rates:
            loss = next((loss for _ in range(_NO_LOSS) if (loss := steps.take(rate)) is not None), None)
            if loss is None:
                break
            losses.append(loss)
            if is_over is not None and is_over(losses):
                break
    return losses


class _Steps:
    """Takes one training step after the other."""

    def __init__(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, batches: Iterator[tuple[Any, int]]
    ) -> None:
        self.trainer, self.pl_module, self.optimizer, self.batches = trainer, pl_module, optimizer, batches
        self.ratios = rate_ratios(optimizer)
        plugin = trainer.precision_plugin
        scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
        self.theirs = 1.0 if scaler is None else float(scaler.get_scale())
        self.mine, self.is_scaled = self.theirs, scaler is not None
        self.held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]

    def take(self, rate: float | None) -> float | None:
        """One update at ``rate``; ``None`` if no batch of its window had a loss, on any rank."""
        window = list(itertools.islice(self.batches, self.trainer.accumulate_grad_batches))
        if not window:
            return None

        def closure() -> float | None:
            return self._gradients(window, backward=rate is not None)

        loss = closure()
        if rate is not None and loss is not None:
            set_rate_aside(self.optimizer, rate, self.ratios)
            if self._is_ready():
                # Of the class: a scheduler counts the steps of the instance. LBFGS alone asks for the closure.
                again: Any = closure if isinstance(self.optimizer, torch.optim.LBFGS) else None
                type(self.optimizer).step(self.optimizer, again)
        self._drop_gradients()
        return loss

    def _gradients(self, window: Sequence[tuple[Any, int]], *, backward: bool) -> float | None:
        self._drop_gradients()
        found: list[Tensor] = []
        for batch, batch_idx in window:
            loss = None if batch is None else self._loss(batch, batch_idx)
            if loss is None:
                continue
            if backward:
                scale = self.mine / self.theirs / len(window)
                run_backward(self.trainer, self.pl_module, loss * scale)
            found.append(loss.detach().double())
        device = self.pl_module.device
        share = torch.tensor(float(bool(found)), dtype=torch.float64, device=device)
        mean = torch.stack(found).mean().to(device) if found else torch.zeros_like(share)
        if self.trainer.world_size > 1:
            share, mean = self._mean_of_ranks(share), self._mean_of_ranks(mean)
            if backward:
                self._average_gradients()
        return float(mean / share) if share else None  # a device read per step, of a run that is not the user's

    def _loss(self, batch: Any, batch_idx: int) -> Tensor | None:
        arguments, keywords = step_arguments(self.pl_module, batch, batch_idx, 0)
        with self.trainer.precision_plugin.train_step_context():
            output = self.pl_module.training_step(*arguments, **keywords)
        loss: Any = output.get("loss") if isinstance(output, Mapping) else output
        return loss if isinstance(loss, Tensor) else None

    def _is_ready(self) -> bool:
        """Unscale and clip; false if the update has to be left out, as a GradScaler would."""
        if self.is_scaled:
            for parameter in self.held:
                if parameter.grad is not None:
                    parameter.grad.div_(self.mine)
            if not all(bool(p.grad.isfinite().all()) for p in self.held if p.grad is not None):
                self.mine /= 2
                return False
        trainer = self.trainer
        type(self.pl_module).configure_gradient_clipping(
            self.pl_module, self.optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        )
        return True

    def _average_gradients(self) -> None:
        """Do what the reducer of DDP does for a real step: here the module is called directly."""
        used = torch.tensor([float(p.grad is not None) for p in self.held], device=self.pl_module.device)
        used = self._mean_of_ranks(used)
        for parameter, share in zip(self.held, used.tolist(), strict=True):
            if share:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                parameter.grad = self._mean_of_ranks(gradient)

    def _mean_of_ranks(self, tensor: Tensor) -> Tensor:
        reduced: Tensor = self.trainer.strategy.reduce(tensor.clone(), reduce_op="mean")
        return reduced

    def _drop_gradients(self) -> None:
        for parameter in (*self.held, *self.pl_module.parameters()):
            parameter.grad = None


@contextmanager
def _state_apart(optimizer: Optimizer) -> Iterator[None]:
    """Let the optimizer work on a copy of its state, without hooks."""
    attributes = optimizer.__dict__
    before = dict(attributes)
    own = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    attributes["state"] = copy.deepcopy(optimizer.state, own)  # its keys, the parameters, stay themselves
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        attributes[name] = OrderedDict()
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)
