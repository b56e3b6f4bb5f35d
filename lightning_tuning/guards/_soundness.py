"""What a checkpoint would hold of weights, buffers and optimizer moments, and what each has to be free of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.functional.soundness import Held, can_be_asked

__all__ = ["moments", "weights"]


def weights(pl_module: LightningModule) -> dict[str, Held]:
    """Floating parameters and the buffers that go into checkpoints, by name.

    Of what is not trained, single numbers are left out: a best loss so far, a perplexity, may well be infinite.
    """
    held = {name: Held(p, "trained" if p.requires_grad else "kept") for name, p in pl_module.named_parameters()}
    for prefix, module in pl_module.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                held[f"{prefix}.{name}" if prefix else name] = Held(buffer, "kept")
    return {name: one for name, one in held.items() if can_be_asked(one.tensor) and not _is_number(one)}


def moments(pl_module: LightningModule, optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, Held]]:
    """What the optimizers keep for each parameter in its shape: running means of gradients and of their squares."""
    name_of = {id(p): name for name, p in pl_module.named_parameters()}
    for optimizer in optimizers:
        states: Mapping[Any, Any] = getattr(optimizer, "optimizer", optimizer).state
        for parameter, state in states.items():
            for key, value in state.items() if isinstance(state, Mapping) else ():
                alike = isinstance(value, Tensor) and value.shape == getattr(parameter, "shape", None)
                if alike and value.ndim and can_be_asked(value):
                    yield f"{name_of.get(id(parameter), 'a parameter')} ({key})", Held(value, "moment")


def _is_number(held: Held) -> bool:
    return held.kind == "kept" and held.tensor.numel() == 1
