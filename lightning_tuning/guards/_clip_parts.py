"""Clipping by units and by elements, and the runs in which nobody may clip besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tuning.functional import (
    adaptive_gradient_clip_,
    clip_values_,
    global_norm,
    tensor_norms,
    unit_dims,
)
from lightning_tuning.runtime.patterns import picked_parameters

__all__ = ["PartClipper", "norm_after", "refuse_run"]


class PartClipper:
    """Clips units (``"agc"``) or elements (``"value"``), each by itself.

    Args:
        pl_module: whose parameters the optimizers hold.
        method: which of the two.
        threshold: of it.
        exclude: globs for ``"agc"``; ``None`` for the last layer.
    """

    def __init__(
        self, pl_module: LightningModule, method: str, threshold: float, exclude: Sequence[str] | None
    ) -> None:
        self._method, self._threshold = method, threshold
        if method == "agc":
            self._dims = unit_dims(pl_module)
            kept: Any = _last_layer(pl_module)
            if exclude is not None:
                kept = picked_parameters("AdaptiveClipGuard", pl_module, exclude, ()).values() if exclude else ()
            self._excluded = {id(p) for p in kept}

    def clip(
        self, optimizer: Optimizer, gradients: Sequence[Tensor], norm: Tensor, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Clip in place, unless ``norm`` is not finite.

        Returns:
            how many units were clipped, of how many; of elements, whether any was, of one update.
        """
        factor = torch.where(norm.isfinite(), 1.0, torch.inf)  # an infinite bound leaves all as it is
        factor = factor if scale is None else factor.to(scale.device, non_blocking=True) * scale
        if self._method == "agc":
            parameters = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in self._excluded]
            return adaptive_gradient_clip_(parameters, self._threshold, dims=self._dims, scale=factor)
        if any(g.is_sparse for g in gradients):
            gradients = _coalesced(optimizer)
        bound = factor * self._threshold
        peaks = [(torch.view_as_real(g) if g.is_complex() else g).abs().max() for g in gradients if g.numel()]
        clipped = [peak.to(bound.device, non_blocking=True) > bound for peak in peaks]
        clip_values_(gradients, bound)
        return torch.stack(clipped).any() if clipped else torch.zeros_like(bound).bool(), norm.isfinite()


def norm_after(optimizer: Optimizer, scale: Tensor | None) -> Tensor | None:
    """The norm that clipping has left; ``None`` of sharded gradients, of which a rank has a piece alone."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if any(hasattr(gradient, "to_local") for gradient in gradients):
        return None
    norm = global_norm(tensor_norms(gradients))
    return norm if scale is None else norm / scale


def refuse_run(trainer: Trainer, guard: Callback, method: str) -> None:
    """See that nobody else clips, and that there is something that can be.

    Raises:
        MisconfigurationException: if not.
    """
    who = f"AdaptiveClipGuard(method={method!r})"
    if trainer.gradient_clip_val:
        raise MisconfigurationException(
            f"{who}: Trainer(gradient_clip_val={trainer.gradient_clip_val}) clips already, and what is clipped twice "
            "has the smaller of two bounds. Drop one; a fixed bound is AdaptiveClipGuard('norm', threshold=...)."
        )
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    if any(type(other) is type(guard) and other is not guard for other in callbacks):
        raise MisconfigurationException(f"{who}: there is a second AdaptiveClipGuard in this Trainer. Keep one.")
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        raise MisconfigurationException(
            f"{who}: DeepSpeedStrategy keeps the gradients to itself. Give it `gradient_clipping` in its config."
        )
    if method == "agc" and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise MisconfigurationException(
            f"{who}: under {type(trainer.strategy).__name__} no rank has a whole unit. Use method='percentile'."
        )


def _last_layer(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of the module registered last that owns a weight of two dimensions or more."""
    owners = [child for child in module.modules() if any(p.dim() > 1 for p in child.parameters(recurse=False))]
    return list(owners[-1].parameters(recurse=False)) if owners else []


def _coalesced(optimizer: Optimizer) -> list[Tensor]:
    """The gradients with one value for each element: parts of a sum cannot be clamped by themselves."""
    gradients: list[Tensor] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.coalesce() if parameter.grad.is_sparse else parameter.grad
                gradients.append(parameter.grad)
    return gradients
