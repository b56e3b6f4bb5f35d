"""The page of a bundle that a person reads first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.guards._incident import Incident
from lightning_tuning.trace import batch_tensors

__all__ = ["report"]

_TENSORS = 40
"""Of the batch, listed at most."""


def report(incident: Incident, run: Mapping[str, Any], optimizers: Iterable[Optimizer]) -> str:
    """Text of some thirty lines: the finding, where in the run, on what, with which numbers, and how to repeat it.

    Args:
        incident: what is known.
        run: the facts in ``run.json``.
        optimizers: of the run.
    """
    step = incident.step
    rank = f", rank {run['rank']} of {run['world_size']}" if run["world_size"] > 1 else ""
    scale = f", gradient scale {run['scale']:g}" if run["scale"] is not None else ""
    window = f", gradients of {run['accumulate_grad_batches']} batches" if run["accumulate_grad_batches"] > 1 else ""
    rows = [
        ("when", f"step {run['step']}, epoch {run['epoch']}, batch {incident.batch_idx}{rank}{window}"),
        ("module", run["module"]),
        ("loss", ", ".join(f"{loss:g}" for loss in step.losses) or "none went backward"),
        ("cause", "not known" + (f": {step.blind}" if step.blind else "")),
        ("action", incident.action),
        ("precision", f"{run['precision']} ({run['precision_plugin']}{scale})"),
        ("device", f"{run['device']} {run['device_name']}".strip()),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
    ]
    if step.origin is not None:
        rows[3] = ("cause", f"{step.origin.cause}: {step.origin.sentence(batch_idx=incident.batch_idx)}")
    rows += [("optimizer", _optimizer(optimizer)) for optimizer in optimizers]
    if step.norms:
        rows.append(("gradients", "norms before: " + ", ".join(f"{norm:.3g}" for norm in step.norms)))
    if step.gradients:
        rows.append(("not finite", f"gradients of {', '.join(step.gradients)}"))
    rows += [("batch", line) for line in _batch_lines(incident.batch)]
    rows += [("not kept", line) for line in run["not_kept"]]
    if incident.rng is None:
        rows.append(("not kept", "random numbers of the batch's start: no replay was asked for, or none was left"))
    if not run["device"].startswith("cpu"):
        rows.append(("mind", "another kind of device draws other random numbers (dropout)"))
    lines = [incident.finding.text(silence=False), ""]
    before = ""
    for label, text in rows:
        lines.append(f"{label if label != before else '':<12}{text}")
        before = label
    lines += ["", "Repeat the step, here or on another machine, a GPU or not:"]
    lines += [f"  lightning-tuning replay THIS_FOLDER {run['module']}", ""]
    return "\n".join(lines)


def _optimizer(optimizer: Optimizer) -> str:
    rates = dict.fromkeys(f"{float(group['lr']):g}" for group in optimizer.param_groups if "lr" in group)
    return f"{type(optimizer).__name__}, lr {', '.join(rates)}"


def _batch_lines(batch: Any) -> list[str]:
    tensors = list(batch_tensors(batch))
    lines = [f"{path}: {_summary(tensor)}" for path, tensor in tensors[:_TENSORS]]
    more = len(tensors) - _TENSORS
    return [*lines, f"and {more} more tensors"] if more > 0 else lines


def _summary(tensor: Tensor) -> str:
    """Type, shape, range and how much is not finite."""
    text = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if tensor.layout is not torch.strided or not tensor.numel() or tensor.is_complex() or tensor.device.type == "meta":
        return text
    values = tensor.detach().cpu().double()
    finite = values[values.isfinite()]
    if finite.numel():
        text += f", {float(finite.min()):g} to {float(finite.max()):g}"
    counts = {"NaN": values.isnan(), math.inf: values == math.inf, -math.inf: values == -math.inf}
    return text + "".join(f", {int(bad.sum())} {name}" for name, bad in counts.items() if bool(bad.any()))
