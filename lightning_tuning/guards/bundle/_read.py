"""A bundle read back, with everything in it checked and no code of it run."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.guards.bundle._contents import (
    BATCH,
    FILES,
    FINDING,
    GRADIENTS,
    MODEL,
    MODULE,
    OPTIMIZERS,
    RNG,
    RUN,
)
from lightning_tuning.guards.bundle._folder import MANIFEST, BundleError, check_folder
from lightning_tuning.guards.bundle._state import read_tensors
from lightning_tuning.guards.bundle._tree import unpack
from lightning_tuning.trace import Origin, RngState

__all__ = ["Bundle", "read_bundle"]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """One bad step, as :class:`~lightning_tuning.NanLossGuard` wrote it down; all tensors on the CPU.

    Attributes:
        path: the folder.
        finding: what was said of it.
        origin: where the first bad number came from; ``None`` where that was not found out.
        blind: why not.
        run: facts of the run: versions, device, precision, step, class of the module (``run.json``).
        parameters: by name, as before the update; tied ones are the same tensor under several names.
        buffers: by name, as at the batch's start.
        gradients: by name, of an accumulation window, the bad batch's included; empty elsewhere.
        optimizers: state dicts of the optimizers.
        schedulers: state dicts of the learning-rate schedulers.
        rng: random number generators at the batch's start, if they were kept.
        hparams: hyperparameters of the module, as ``save_hyperparameters`` had them.
        attributes: plain attributes that the run had changed, by module path and name.
        packed_batch: see :meth:`batch`.
    """

    path: Path
    finding: Finding
    origin: Origin | None
    blind: str
    run: dict[str, Any]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    schedulers: list[dict[str, Any]]
    rng: RngState | None
    hparams: dict[str, Any]
    attributes: dict[str, dict[str, Any]]
    packed_batch: Any

    @property
    def batch_idx(self) -> int:
        """Index of the batch in its epoch."""
        return int(self.run["batch_idx"])

    def batch(self, *, home: str | None = None, lost: list[str] | None = None) -> Any:
        """The batch as ``training_step`` got it, on the CPU.

        Args:
            home: name of a loaded module where the classes of the script that trained are found. Default: nowhere.
            lost: gets a line for each of its classes that has a stand-in.
        """
        return unpack(self.packed_batch, home=home, lost=lost)


def read_bundle(path: str | Path) -> Bundle:
    """Read the bundle in the folder ``path``.

    Why it is safe with a folder from elsewhere: hashes tell what was damaged; tensors are read as safetensors and with
    ``torch.load(weights_only=True)``, the rest as JSON; nothing is imported, and no class of a batch is made by its
    constructor.

    Args:
        path: of the folder.

    Raises:
        BundleError: if there is none, if it is damaged or unfinished, of another format or of a newer version; one
            line that says which.

    Example:
        >>> read_bundle("nowhere")
        Traceback (most recent call last):
            ...
        lightning_tuning.guards.bundle._folder.BundleError: no bundle at 'nowhere': there is no such folder.
    """
    folder = Path(path)
    listed = check_folder(folder)["files"]
    if missing := [name for name in FILES if name not in listed]:
        raise BundleError(f"the bundle is damaged: {MANIFEST} does not list {', '.join(missing)}.")
    verdict, run = _json(folder / FINDING), _json(folder / RUN)
    module, optimizers = _load(folder / MODULE), _load(folder / OPTIMIZERS)
    state, batch = _load(folder / RNG), _load(folder / BATCH)
    try:
        aliases, buffers = dict(run["aliases"]), set(run["buffers"])
        tensors = _tensors(folder / MODEL, aliases, dict(module["others"]))
        gradients: dict[str, Tensor] = {}
        if GRADIENTS in listed:
            gradients = _tensors(folder / GRADIENTS, aliases, dict(module["other_gradients"]))
        return Bundle(
            path=folder,
            finding=Finding.from_dict(verdict["finding"]),
            origin=_origin(verdict["origin"]),
            blind=str(verdict["step"]["blind"]),
            run=_complete(run),
            parameters={name: tensor for name, tensor in tensors.items() if name not in buffers},
            buffers={name: tensor for name, tensor in tensors.items() if name in buffers},
            gradients=gradients,
            optimizers=list(optimizers["optimizers"]),
            schedulers=list(optimizers["schedulers"]),
            rng=None if state is None else RngState.from_state_dict(state),
            hparams=dict(unpack(module["hparams"])),
            attributes={name: dict(values) for name, values in unpack(module["attributes"]).items()},
            packed_batch=batch,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"the bundle is damaged: a file in it lacks what it should hold ({error!r}).") from error


_NEEDED = {
    "accumulate_grad_batches": int, "automatic_optimization": bool, "batch_idx": int, "default_dtype": str,
    "device": str, "epoch": int, "eval": list, "frozen": list, "matmul_precision": str, "module": str,
    "not_kept": list, "precision": str, "precision_plugin": str, "rank": int, "step": int, "transient": list,
    "versions": dict, "world_size": int,
}  # fmt: skip
"""Of ``run.json``, what a repetition relies on."""


def _complete(run: dict[str, Any]) -> dict[str, Any]:
    for key, kind in _NEEDED.items():
        if not isinstance(run[key], kind):
            raise TypeError(f"{key} in {RUN} is {run[key]!r}")
    return run


def _origin(fields: dict[str, Any] | None) -> Origin | None:
    """The origin; what a newer version knew of it besides is left out."""
    if fields is None:
        return None
    known = {field.name for field in dataclasses.fields(Origin)}
    plain: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items() if key in known
    }
    return Origin(**plain)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"the bundle is damaged: {file.name} is no JSON.") from error
    if not isinstance(content, dict):
        raise BundleError(f"the bundle is damaged: {file.name} is no JSON object.")
    return content


def _load(file: Path) -> Any:
    # torch's own message tells how to load it in spite of the danger; it is not passed on.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sparse and nested tensors being new
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        what = "holds something other than tensors and plain values, or is damaged; it was not loaded"
        raise BundleError(f"{file.name} {what}.") from error


def _tensors(file: Path, aliases: dict[str, str], others: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        return read_tensors(file, aliases, others)
    except Exception as error:
        raise BundleError(f"the bundle is damaged: {file.name} is no safetensors file.") from error
