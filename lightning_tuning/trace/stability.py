"""Whether the steps of an optimizer are too large for the curvature of the loss, measured on one batch aside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from lightning_tuning.functional.curvature import CurvatureError, hessian_top_eigenvalue
from lightning_tuning.functional.eigenvalues import TopEigenvalue
from lightning_tuning.trace._step_sizes import NoBoundError, StepSizes, step_sizes
from lightning_tuning.trace.alone import alone
from lightning_tuning.trace.aside import CannotReplay, replay
from lightning_tuning.trace.rng import RngState

__all__ = ["NotYetError", "Stability", "mean_stability", "of_all_ranks", "stability_of"]


class NotYetError(CurvatureError):
    """There is nothing to compare the curvature with so early in the run."""


@dataclass(frozen=True)
class Stability:
    """The curvature of a batch's loss beside what the optimizer's steps bear.

    Attributes:
        sharpness: the largest eigenvalue of the Hessian of the loss, in the metric of the optimizer (of Adam: divided
            by the root of its second moments); but for rounding never above the true one.
        residual: an eigenvalue lies within this distance of it.
        iterations: products with the Hessian that it took.
        where: the parameter group with the highest learning rate (``"SGD group 0"``); ``""`` without a bound.
        lr: of that group; ``None`` without a bound.
        bound: the sharpness that steps of that rate bear; above it they grow. ``None`` where none is known. Groups with
            other settings are part of ``sharpness``, scaled so that the bound is the one of this group.
        formula: of the bound: ``"2 (1 + 0.9) / lr"``.
        no_bound: why there is none.
    """

    sharpness: float
    residual: float
    iterations: int
    where: str = ""
    lr: float | None = None
    bound: float | None = None
    formula: str = ""
    no_bound: str = ""

    @property
    def excess(self) -> float | None:
        """Sharpness over bound; steps grow above 1. ``None`` without a bound."""
        return None if self.bound is None else self.sharpness / self.bound

    @property
    def stable_lr(self) -> float | None:
        """The highest learning rate that this sharpness bears; inf where nothing curves upwards."""
        if self.lr is None or self.excess is None:
            return None
        return self.lr / self.excess if self.excess > 0 else math.inf


def stability_of(
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    batch_idx: int,
    *,
    rng: RngState | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    iterations: int = 20,
    tolerance: float = 0.01,
) -> Stability:
    """Measure the sharpness of the training loss of one batch aside, and what the optimizer's steps bear.

    The step is run once as :func:`~lightning_tuning.trace.aside.replay` does: batch norms normalize by the batch,
    dropout draws one mask, so that the curvature is that of one fixed function. Attention and RNNs take the kernels
    that have second derivatives. Every rank measures its own batch, and none communicates.

    It is the curvature of the *batch*, as a rule above that of the whole training set; and frozen: Adam's second
    moments are taken as they are. Clipping, which makes steps smaller than the rate says, is not in it.

    Price: a training step, and two backward passes for each of up to ``iterations`` products, with the graph of the
    gradient and six copies of the parameters in memory.

    Args:
        trainer: the trainer of the run, with one optimizer, before or after its step.
        pl_module: its LightningModule.
        batch: as ``training_step`` gets it.
        batch_idx: its index.
        rng: the random number generators to start from. Default: as they are.
        buffers: to start from, by name. Default: as they are.
        weights: at which to measure, by the names of parameters, on any device; what the optimizer has gathered stays
            that of now. Default: as they are.
        iterations: products with the Hessian at most; see
            :func:`~lightning_tuning.functional.curvature.hessian_top_eigenvalue`.
        tolerance: enough once the residual is below this part of the sharpness. Default .01.

    Raises:
        CannotReplay: if the step cannot be repeated, or has several losses or optimizers.
        NotYetError: while the learning rate is 0, and in the first 100 steps of an adaptive optimizer.
        CurvatureError: if the loss has no finite second derivatives.
    """
    if len(trainer.optimizers) != 1:
        raise CannotReplay(f"Which loss is whose is not known with {len(trainer.optimizers)} optimizers.")
    optimizer = _raw(trainer.optimizers[0])
    sizes, reason = _sizes(optimizer)
    found: list[TopEigenvalue] = []
    reached: list[bool] = []

    def enough(top: TopEigenvalue) -> bool:
        return not float(top.residual) > tolerance * abs(float(top.value))  # NaN as well

    def measure(losses: list[Tensor]) -> None:
        reached.append(True)
        if len(losses) != 1:
            raise CannotReplay(f"The step has {len(losses)} losses, and has to have one.")
        with torch.enable_grad():
            found.append(
                hessian_top_eigenvalue(
                    -losses[0] if sizes is not None and sizes.maximize else losses[0],
                    [p for group in optimizer.param_groups for p in group["params"]]
                    if sizes is None
                    else sizes.parameters,
                    iterations=iterations,
                    generator=torch.Generator().manual_seed(0),
                    preconditioner=None if sizes is None else sizes.preconditioner,
                    decay=None if sizes is None else sizes.decay,
                    stop=enough,
                )
            )

    start: dict[str, Any] = {"rng": rng, "buffers": buffers, "context": _twice_differentiable(pl_module, weights or {})}
    try:
        with alone():
            replay(trainer, pl_module, batch, batch_idx, inspect=measure, **start)
    except CannotReplay:
        raise
    except Exception as error:
        if reached:
            raise
        raise CannotReplay(f"The repeated training_step raised {type(error).__name__}: {error}") from error
    top = found[0]
    value, residual = float(top.value), float(top.residual)
    if not math.isfinite(value):
        raise CurvatureError("the loss or its curvature is not finite")
    if sizes is None:
        return Stability(value, residual, top.iterations, no_bound=reason)
    return Stability(
        value * sizes.bound, residual * sizes.bound, top.iterations, sizes.where, sizes.lr, sizes.bound, sizes.formula
    )


def _sizes(optimizer: Optimizer) -> tuple[StepSizes | None, str]:
    try:
        return step_sizes(optimizer), ""
    except NoBoundError as reason:
        if reason.soon:
            raise NotYetError(str(reason)) from reason
        return None, str(reason)


def _raw(optimizer: Any) -> Optimizer:
    raw: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return raw


def of_all_ranks(own: Stability | str) -> list[Stability | str]:
    """What every rank has measured, or why it could not, in the order of ranks; every rank must call it."""
    everybody: list[Any] = [own]
    if _several_ranks():
        everybody = [None] * dist.get_world_size()
        dist.all_gather_object(everybody, own)
    return everybody


def mean_stability(everybody: Sequence[Stability | str]) -> Stability | None:
    """The mean over the ranks that have measured; ``None`` where none has."""
    measured = [one for one in everybody if isinstance(one, Stability)]
    if not measured:
        return None
    mean = sum(one.sharpness for one in measured) / len(measured)
    return replace(measured[0], sharpness=mean, residual=max(one.residual for one in measured))


@contextmanager
def _twice_differentiable(pl_module: LightningModule, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Flash attention and cuDNN's RNNs have no second derivative. The weights are put back with all that is aside."""
    with torch.no_grad():
        for name, parameter in pl_module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if torch.cuda.is_available():
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
