"""Looks at the first batches: what goes into the model (LT101, LT102, LT103, LT106, LT113)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.checks._data_watch import DataWatch
from lightning_tuning.checks._held import lasting, tell_if_it_harms
from lightning_tuning.checks._input_probe import FirstLossProbe, InputProbe
from lightning_tuning.findings import Finding
from lightning_tuning.rules._ops import main_input
from lightning_tuning.rules.non_finite_input import LT101
from lightning_tuning.rules.unscaled_input import entrances, unscaled_input
from lightning_tuning.runtime import Check, Desk, FirstStep, Sparing
from lightning_tuning.trace import Probe

__all__ = ["DataCheck"]


class DataCheck(Check):
    """Looks at the first batches: what goes into the model (LT101, LT102, LT103, LT106, LT113).

    Why: most runs that do not train have nothing wrong with the model. Samples that are NaN (LT101), inputs of the
    wrong scale (LT102), features that never change (LT103), classes that come one after the other (LT106), samples that
    are all zero or all the same (LT113): a loss curve shows none of them by name.

    Batches are looked at as they pass; the loader is never asked for one. What is measured of them is small, stays on
    the device, and comes to the host some batches later without anybody waiting. A tensor that the loss does not depend
    on, or that the step itself asks for NaN (``isnan``, ``nan_to_num``), may hold what it likes. Unscaled inputs are
    told only where the first loss is off or the run turns out not to learn.

    Args:
        batches: at the start of a fit that are looked at for numbers that are not finite. Default 50: a bad sample in
            a hundred is found with ease, and no run is slowed down after its first minute.
        every: after those, look at each of so many batches. Default ``None``: not at all (:class:`NanLossGuard` finds
            the sample when it does harm).
        allow: globs of key paths that may hold NaN or infinity, ``["batch['target']"]`` or ``["*mask*"]``.

    Raises:
        ValueError: if ``batches`` or ``every`` is no integer of at least 1, or ``allow`` no sequence of texts.

    Example:
        >>> trainer = Trainer(callbacks=[DataCheck(allow=["*mask*"])], logger=False, accelerator="cpu")

    Source: Karpathy 2019, A Recipe for Training Neural Networks; LeCun et al. 1998; Humbatova et al. 2020.
    """

    def __init__(self, batches: int = 50, every: int | None = None, allow: Sequence[str] = ()) -> None:
        for name, value in (("batches", batches), ("every", every)):
            if not (type(value) is int and value >= 1) and not (name == "every" and value is None):
                raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
        if isinstance(allow, str) or not all(isinstance(pattern, str) for pattern in allow):
            raise ValueError(f"`allow` must be a sequence of texts, got {allow!r}.")
        self.batches, self.every, self.allow = batches, every, tuple(allow)
        self._forget()

    def _forget(self) -> None:
        self._watch: DataWatch | None = None
        self._inputs, self._loss = InputProbe(), FirstLossProbe()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to look."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._watch = DataWatch(self.batches, self.every, self.allow)
            desk = Desk.of(trainer)
            desk.watch("train_batch_start", self._at_batch)
            desk.watch("train_epoch_end", self._at_epoch_end)

    def probes(self) -> Sequence[Probe]:
        """What the first layers read, and the first loss."""
        self._inputs, self._loss = InputProbe(), FirstLossProbe()
        return self._inputs, self._loss

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """Learn what is what in the batch; judge the scale of what the first layers read (a device sync, once)."""
        if self._watch is not None:
            self._watch.know(step)
        found = [] if step.graph.blind else [lasting(finding) for finding in self._unscaled(step)]
        is_off = bool(found) and self._loss.is_off
        self._inputs, self._loss = InputProbe(), FirstLossProbe()
        tell_if_it_harms(self, step.trainer, found)
        return found if is_off else ()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is still under way lands."""
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise: what ended the run may be what was seen in its batch."""
        with contextlib.suppress(RuntimeError):  # no number can be read from a device that has failed, or the run ends
            self._close(trainer)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a running fit."""
        return {**self.__dict__, "_watch": None, "_inputs": InputProbe(), "_loss": FirstLossProbe()}

    def _unscaled(self, step: FirstStep) -> Iterator[Finding]:
        for op in entrances(step.graph):
            statistics = self._inputs.statistics(op, main_input(step.graph, op))
            finding = None if statistics is None else unscaled_input(step.graph, op, statistics)
            if finding is not None:
                yield finding

    def _at_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        if self._watch is None:
            return True
        is_done = self._watch.at_batch(trainer, batch)
        self._tell(trainer)
        return is_done

    def _at_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        if self._watch is not None:
            self._watch.end_of_epoch()
            self._tell(trainer)
        return True

    def _tell(self, trainer: Trainer) -> None:
        for finding in [] if self._watch is None else self._watch.take():
            self.report(trainer, finding, once=finding.code != LT101.code)

    def _close(self, trainer: Trainer) -> None:
        if self._watch is not None and Desk.find(trainer) is not None:
            with Sparing(Desk.of(trainer).journal, self):
                self._watch.end()
                self._tell(trainer)
        self._forget()
