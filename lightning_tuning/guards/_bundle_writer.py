"""Writes the bundle of each incident, on the rank whose batch was bad."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_tuning.guards._incident import Incident, Response
from lightning_tuning.guards._ranks import exchange
from lightning_tuning.guards.bundle._contents import write_contents
from lightning_tuning.guards.bundle._folder import clean_up, write_folder
from lightning_tuning.guards.bundle._state import Attributes

__all__ = ["BundleWriter"]


class _Outcome(NamedTuple):
    """Of a rank that wrote, or tried."""

    path: str
    error: str


class BundleWriter(Response):
    """Writes a folder per incident with all that is needed to repeat the step elsewhere.

    What goes wrong in writing ends in a note, the same on every rank; it never ends the run, and no rank waits for
    another longer than the writing takes.

    Args:
        bundle_dir: where the folders go; made at the first incident.
        max_bundles: written in a run at most, those before a resume counted, and attempts that failed. What is in
            ``bundle_dir`` from other runs is neither counted nor removed.

    Raises:
        ValueError: if ``bundle_dir`` is no path.
    """

    def __init__(self, bundle_dir: str | os.PathLike[str], max_bundles: int = 3) -> None:
        path: Any = bundle_dir
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise ValueError(f"`bundle_dir` must be the path of a folder or None, got {bundle_dir!r}.")
        self.bundle_dir = Path(bundle_dir)
        self.max_bundles = max_bundles
        self._attributes: Attributes | None = None
        self._written: list[str] = []
        self._failed: list[str] = []
        self._left_out = 0

    @property
    def wants_rng(self) -> bool:
        """As long as bundles are still to be written."""
        return len(self._written) + len(self._failed) < self.max_bundles

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a killed run left half written, and remember the module's settings."""
        self._attributes = Attributes(pl_module)
        if trainer.local_rank == 0:
            with contextlib.suppress(OSError):  # a folder that cannot be read: the first bundle will say so
                clean_up(self.bundle_dir)

    def answer(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> str:
        """Write the bundle on the rank whose batch was bad, and tell every rank where it is, or why there is none."""
        if not self.wants_rng:
            self._left_out += 1
            return ""
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            self._failed.append(why := f"parameters are sharded ({type(trainer.strategy).__name__})")
            return f"no bundle was written: {why}"
        writer = 0 if incident.step.rank is None else incident.step.rank
        outcome = self._write(trainer, pl_module, incident) if trainer.global_rank == writer else None
        path, error = next((told for told in exchange(outcome) if told is not None), _Outcome("", "no rank wrote it"))
        if error:
            self._failed.append(error)
            return f"no bundle was written: {error}"
        self._written.append(path)
        return f"`lightning-tuning replay {path}` repeats it"

    def notes(self) -> list[str]:
        """How many bundles were written, where, and what was not."""
        notes = []
        if self._written:
            names = [Path(path).name for path in self._written]
            count = f"{len(names)} bundle{'s' if len(names) > 1 else ''}"
            notes.append(f"NanLossGuard wrote {count} into {self.bundle_dir}: {', '.join(names)}")
        notes += [f"NanLossGuard could not write a bundle: {error}" for error in dict.fromkeys(self._failed)]
        if self._left_out:
            notes.append(f"NanLossGuard wrote none of {self._left_out} more (`max_bundles={self.max_bundles}`)")
        return notes

    def end(self, trainer: Trainer) -> None:
        """Let go of the module."""
        self._attributes = None

    def state_dict(self) -> dict[str, Any]:
        """What counts against ``max_bundles``."""
        return {"written": list(self._written), "failed": list(self._failed), "left_out": self._left_out}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._written, self._failed = list(state["written"]), list(state["failed"])
        self._left_out = state["left_out"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attributes": None}  # those are of this process

    def _write(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> _Outcome:
        cause = str(incident.finding.evidence.get("cause", "unknown"))
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        name = f"step-{trainer.global_step:08d}-{incident.finding.code}-{cause}{rank}"
        attributes = self._attributes or Attributes(pl_module)

        def fill(folder: Path) -> None:
            write_contents(folder, trainer, pl_module, incident, attributes)

        try:
            return _Outcome(str(write_folder(self.bundle_dir, re.sub(r"[^\w.-]", "_", name), fill)), "")
        except Exception as error:  # noqa: BLE001  # a full disk, a batch that cannot be copied: the run is worth more
            said = str(error).strip().splitlines() or [""]
            return _Outcome("", f"{type(error).__name__}: {said[0]}")
