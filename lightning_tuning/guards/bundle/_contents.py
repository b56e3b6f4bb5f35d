"""The files of a bundle, from a trainer and an incident in it."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.guards._incident import Incident
from lightning_tuning.guards.bundle._report import report
from lightning_tuning.guards.bundle._state import Attributes, modes_of, named_tensors, write_tensors
from lightning_tuning.guards.bundle._tree import pack

__all__ = ["FILES", "GRADIENTS", "write_contents"]

FINDING = "finding.json"
RUN = "run.json"
MODEL = "model.safetensors"
GRADIENTS = "gradients.safetensors"
BATCH = "batch.pt"
RNG = "rng.pt"
OPTIMIZERS = "optimizers.pt"
MODULE = "module.pt"
REPORT = "report.txt"
FILES = (FINDING, RUN, MODEL, BATCH, RNG, OPTIMIZERS, MODULE, REPORT)
"""Those that every bundle has; gradients only in an accumulation window."""


def write_contents(
    folder: Path, trainer: Trainer, pl_module: LightningModule, incident: Incident, attributes: Attributes
) -> None:
    """Write every file of the bundle but its manifest.

    Args:
        folder: empty.
        trainer: of the run.
        pl_module: with the weights of before the update.
        incident: what is known.
        attributes: of the module when training began.

    Raises:
        OSError: if the disk is full or does not take it.
    """
    lost: list[str] = []
    buffers = named_tensors(pl_module, "buffers")
    start = {id(b): incident.buffers[n] for n, b in pl_module.named_buffers() if n in incident.buffers}
    tensors = {
        **named_tensors(pl_module, "parameters"),
        **{name: start.get(id(buffer), buffer) for name, buffer in buffers.items()},
    }
    model = write_tensors(folder / MODEL, tensors, lost)
    gradients = _accumulated(trainer, pl_module)
    odd_gradients = write_tensors(folder / GRADIENTS, gradients, lost)["others"] if gradients else {}
    torch.save(pack(incident.batch, "batch", lost), folder / BATCH)
    torch.save(None if incident.rng is None else incident.rng.state_dict(), folder / RNG)
    optimizers = {
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    }
    torch.save({key: pack(value, key, lost) for key, value in optimizers.items()}, folder / OPTIMIZERS)
    module = {
        "hparams": pack(dict(pl_module.hparams), "hparams", lost),
        "attributes": pack(attributes.moved(pl_module), "attributes", lost),
        "others": model["others"],
        "other_gradients": odd_gradients,
    }
    torch.save(module, folder / MODULE)
    run = {
        **run_facts(trainer, pl_module, incident),
        **modes_of(pl_module),
        "buffers": list(buffers),
        "aliases": model["aliases"],
        "not_kept": lost,
    }
    _write_json(folder / RUN, run)
    _write_json(folder / FINDING, finding_facts(trainer, incident))
    (folder / REPORT).write_text(report(incident, run, trainer.optimizers), encoding="utf-8")


def finding_facts(trainer: Trainer, incident: Incident) -> dict[str, Any]:
    """The verdict, in plain JSON types."""
    when = {"step": trainer.global_step, "epoch": trainer.current_epoch, "rank": trainer.global_rank}
    step = dataclasses.asdict(dataclasses.replace(incident.step, origin=None))
    origin = incident.step.origin
    return {
        "finding": {**incident.finding.to_dict(), **when},
        "origin": None if origin is None else origin.to_dict(),
        "step": {key: value for key, value in step.items() if key != "origin"},
        "action": incident.action,
    }


def run_facts(trainer: Trainer, pl_module: LightningModule, incident: Incident) -> dict[str, Any]:
    """Of the run, what a repetition must do likewise, and what a reader wants to know."""
    plugin, kind = trainer.precision_plugin, type(pl_module)
    scaler = getattr(plugin, "scaler", None)
    device = pl_module.device
    return {
        "module": _importable(kind),
        "batch_idx": incident.batch_idx,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "automatic_optimization": pl_module.automatic_optimization,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": trainer.gradient_clip_algorithm,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "train_batches": trainer.num_training_batches,
        "steps_planned": _steps_planned(trainer),
        "precision": str(trainer.precision),
        "precision_plugin": type(plugin).__name__,
        "autocast_device": getattr(plugin, "device", None),
        "scale": None if scaler is None or not scaler.is_enabled() else scaler.get_scale(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what made the numbers."""
    from importlib.metadata import version  # noqa: PLC0415  # for an incident alone

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "lightning-tuning": version("lightning-tuning"),
    }


def _accumulated(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Gradients that hold more than this batch's, as they are now."""
    if pl_module.automatic_optimization and trainer.accumulate_grad_batches == 1:
        return {}
    named = named_tensors(pl_module, "parameters")
    return {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}


def _steps_planned(trainer: Trainer) -> float | None:
    try:
        return trainer.estimated_stepping_batches
    except Exception:  # noqa: BLE001  # it may ask the user's loaders; a schedule that needs it says so later
        return None


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """In JSON types; what is not finite as a word."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _importable(kind: type) -> str:
    """``"train:LitNet"``, as the command line takes it: a script being run can be imported by its file's name."""
    file = getattr(sys.modules.get("__main__"), "__file__", None) if kind.__module__ == "__main__" else None
    return f"{Path(file).stem if file else kind.__module__}:{kind.__qualname__}"
