"""What a run folder tells, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_tuning.findings import Diagnosis, Finding

__all__ = ["Block", "ModelMap", "Node", "Run", "Sample"]


@dataclasses.dataclass(frozen=True)
class Block:
    """What was measured in some steps of one optimizer, one line ``{"kind": "steps", ...}`` of ``readings.jsonl``.

    Attributes:
        step: ``trainer.global_step`` before the first of them.
        last_step: the same of the last.
        epoch: of the first.
        optimizer: its index; ``None`` where none was seen to step.
        count: how many steps.
        loss: mean training loss over those that are finite; NaN or infinite only where none is.
        loss_min: least, of the finite ones likewise.
        loss_max: greatest, of all: infinite, or NaN, if one was.
        grad_norm: mean global L2 norm of the gradients before clipping; as ``loss``.
        grad_norm_max: greatest; as ``loss_max``.
        clip: the norm to which gradients are clipped, ``None`` where nobody does.
        clipped: share of the steps in which they were, 0 to 1.
        seconds: since the beginning of the run, at the last of them.
    """

    step: int
    last_step: int
    epoch: int
    optimizer: int | None = None
    count: int = 1
    loss: float | None = None
    loss_min: float | None = None
    loss_max: float | None = None
    grad_norm: float | None = None
    grad_norm_max: float | None = None
    clip: float | None = None
    clipped: float | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
    """Numbers of one step by name, one line of ``readings.jsonl`` of any kind but ``"steps"``.

    Attributes:
        step: ``trainer.global_step``.
        values: by layer, parameter, group or metric.
        epoch: ``trainer.current_epoch``.
        seconds: since the beginning of the run.
    """

    step: int
    values: Mapping[str, float]
    epoch: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Node:
    """One block of the traced model.

    Attributes:
        module: path of the module that ran, ``"encoder.0"``; ``""`` is the LightningModule itself.
        kind: its class, ``"Conv2d"``; ``"loss"`` for the loss.
        operations: what ran in it, ``("conv2d",)``.
        shape: of its output.
        parameters: numbers trained in it, those of its children left out.
        source_line: ``"train.py:12"``, where it is known.
    """

    module: str
    kind: str
    operations: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    parameters: int = 0
    source_line: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelMap:
    """The traced model as blocks and the values that go from one to the next; ``model.json``.

    Attributes:
        nodes: in the order in which they ran.
        edges: pairs of indices into ``nodes``, from and to.
        blind: what the trace could not see, a sentence each.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    blind: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run folder tells.

    Attributes:
        folder: where it lies.
        info: ``run.json``: ``status`` (``"running"``, ``"finished"``, ``"interrupted"`` or ``"failed"``; a run that
            was killed stays ``"running"``), ``started``, ``ended`` (ISO 8601, UTC), ``error``, ``versions``, ``model``
            (``class``, ``parameters``, ``trained``), ``trainer`` (``precision``, ``devices``, ``max_epochs``,
            ``accumulate_grad_batches``, ``gradient_clip_val``, ``max_steps``, ``steps``, ``epochs``), ``progress``,
            ``schedule`` (the simulated learning rates by group: ``steps`` and ``lr``). All but ``status`` may be
            missing.
        findings: what was found, worst first, repeats folded.
        told: the findings as they were told, one after the other: the same one again if it got worse.
        notes: what guards and treatments did.
        diagnosis: of a run that went wrong.
        blocks: the steps.
        samples: by kind: ``"lr"``, ``"validation"``, ``"update_ratio"``, ``"dead_units"``, ``"saturated_units"``,
            ``"attention_entropy"``, ``"grad_norm"`` (by parameter), ``"variance_shift"``, ``"cost"``, and ``"logged"``
            (all that went to the loggers, at their own step).
        model: the traced model; ``None`` where there was nothing to trace.
        problems: what could not be read, a sentence each.
    """

    folder: Path
    info: Mapping[str, Any]
    findings: Sequence[Finding] = ()
    told: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    diagnosis: Diagnosis | None = None
    blocks: Sequence[Block] = ()
    samples: Mapping[str, Sequence[Sample]] = dataclasses.field(default_factory=dict)
    model: ModelMap | None = None
    problems: Sequence[str] = ()
