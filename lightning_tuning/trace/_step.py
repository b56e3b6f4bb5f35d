"""How Lightning calls a training step and its backward pass, for a call beside its loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

__all__ = ["CannotReplay", "load_buffers", "run_backward", "step_arguments"]


class CannotReplay(RuntimeError):  # noqa: N818  # a limit that is said, not an error of the run
    """The run's training step cannot be repeated aside; the message is one sentence, for a report, that says why."""


def step_arguments(
    pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as Lightning's training loop binds them."""
    step = pl_module.training_step
    if is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
        raise CannotReplay(
            "A training_step that takes `dataloader_iter` draws its own batches; they cannot be given to it again."
        )
    arguments = (batch, batch_idx) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else (batch,)
    named = is_param_in_hook_signature(step, "dataloader_idx", explicit=True)
    return arguments, {"dataloader_idx": dataloader_idx} if named else {}


def load_buffers(pl_module: LightningModule, values: Mapping[str, Tensor]) -> None:
    buffers = dict(pl_module.named_buffers())
    if unknown := values.keys() - buffers.keys():
        raise ValueError(f"`buffers` must name buffers of the module, got {sorted(unknown)}")
    with torch.no_grad():
        for name, value in values.items():
            buffers[name].copy_(value)


def run_backward(trainer: Trainer, pl_module: LightningModule, loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """Gradients of ``loss`` into ``p.grad``, unseen by function modes and by who listens for the real backward pass."""
    if not loss.requires_grad:
        return
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
        loss = loss * plugin.scaler.get_scale()
    parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
    with torch._C.DisableTorchFunction():
        hooked = any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in parameters)
        if not hooked and not isinstance(trainer.strategy, ParallelStrategy):
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]
            return
        # DDP's reducer, and optimizers that step in backward, listen where gradients are accumulated: end before that.
        seed = args[0] if args else kwargs.get("gradient")
        keep = kwargs.get("retain_graph")
        gradients = torch.autograd.grad(loss, parameters, seed, retain_graph=keep, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
