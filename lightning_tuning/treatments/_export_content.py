"""What of a Lightning checkpoint goes into a plain file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_tuning.functional.soundness import Held, broken, can_be_asked, held_state
from lightning_tuning.functional.state_names import name_cleaner

__all__ = ["four_keys", "model_of", "not_finite"]


def model_of(checkpoint: Mapping[str, Any], module: LightningModule, prefix: str | None) -> dict[str, Any]:
    """The weights in ``checkpoint`` under the names that they have without wrappers, and without ``prefix``.

    Raises:
        ValueError: if nothing lies under ``prefix``.
    """
    clean = name_cleaner(module)
    model = {clean(name): value for name, value in checkpoint["state_dict"].items()}
    if prefix is None:
        return model
    start = f"{prefix.rstrip('.')}."
    model = {name.removeprefix(start): value for name, value in model.items() if name.startswith(start)}
    if not model:
        raise ValueError(f"`prefix_strip` must be in front of a name in the state dict, got {prefix!r}.")
    return model


def four_keys(checkpoint: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """What a loop needs to go on: the state of an only optimizer or scheduler as it is, of several as a list.

    Raises:
        ValueError: if the checkpoint holds weights alone.

    Example:
        >>> checkpoint = {"optimizer_states": [{"state": {}}], "lr_schedulers": [], "global_step": 8}
        >>> four_keys(checkpoint, {})
        {'model': {}, 'optimizer': {'state': {}}, 'scheduler': None, 'iteration': 8}
    """
    if "optimizer_states" not in checkpoint:
        raise ValueError("contents='training' needs a checkpoint with the optimizer's state, got one of weights only.")
    return {
        "model": model,
        "optimizer": _single(checkpoint["optimizer_states"]),
        "scheduler": _single(checkpoint["lr_schedulers"]),
        "iteration": checkpoint["global_step"],
    }


def not_finite(checkpoint: Mapping[str, Any], module: LightningModule, *, moments: bool) -> tuple[str, ...]:
    """Names of the weights, and of the optimizers' ``moments``, that hold what they should not; a host read."""
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    buffers |= {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    held = held_state(checkpoint["state_dict"], buffers)
    kept = _moments(checkpoint.get("optimizer_states") or []) if moments else ()
    return broken([*held.items(), *kept])


def _single(states: list[Any]) -> Any:
    return None if not states else states[0] if len(states) == 1 else list(states)


def _moments(states: list[Any]) -> Iterator[tuple[str, Held]]:
    for index, state in enumerate(states):
        for parameter, values in state.get("state", {}).items():
            for key, value in values.items() if isinstance(values, Mapping) else ():
                if isinstance(value, Tensor) and value.ndim and can_be_asked(value):
                    yield f"optimizer {index}, parameter {parameter} ({key})", Held(value, "moment")
