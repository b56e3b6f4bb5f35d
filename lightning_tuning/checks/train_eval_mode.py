"""Looks at who trains in evaluation mode, and who evaluates in training mode (LT320, LT321)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.rules.eval_mode_in_training import eval_modes_in_training
from lightning_tuning.rules.train_mode_in_evaluation import modes_of_interest, train_modes_in_evaluation
from lightning_tuning.runtime import Check, Desk, FirstStep
from lightning_tuning.runtime.declared import declared_frozen

__all__ = ["TrainEvalModeCheck"]


class TrainEvalModeCheck(Check):
    """Looks at who trains in evaluation mode, and who evaluates in training mode (LT320, LT321).

    At the first training step, and around every step of the first validation, the sanity check included; only flags are
    read there. What a ``FreezeGuard`` holds is in evaluation mode on purpose.

    Args:
        allow: paths of modules (``fnmatch`` patterns such as ``"*.mc_dropout"``) that may stay in training mode during
            validation. Default: none.

    Raises:
        ValueError: if ``allow`` is not a sequence of strings.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> check = TrainEvalModeCheck(allow=["*dropout*"])
        >>> trainer = Trainer(callbacks=[check], logger=False, enable_checkpointing=False)
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        if isinstance(allow, str) or not all(isinstance(pattern, str) for pattern in allow):
            raise ValueError(f"`allow` must be a sequence of patterns of module paths, got {allow!r}.")
        self.allow = tuple(allow)
        self._parts: dict[str, str] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step, and for a look at the first validation."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._parts = None
            desk = Desk.of(trainer)
            desk.watch("validation_batch_start", self._look_at_modes)
            desk.watch("validation_epoch_end", self._look_at_modes)

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """Who trains in evaluation mode."""
        held = (p for optimizer in step.trainer.optimizers for group in optimizer.param_groups for p in group["params"])
        self._parts = self._allowed(modes_of_interest(step.pl_module, step.graph))
        declared = declared_frozen(step.trainer)
        return eval_modes_in_training(step.pl_module, step.graph, {id(p) for p in held}, declared=declared)

    def _look_at_modes(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> bool:
        """Who evaluates in training mode; over with the first validation that is no sanity check."""
        parts = self._parts
        if parts is None:  # before the first training step
            parts = self._allowed(modes_of_interest(pl_module, None))
        finding = train_modes_in_evaluation(pl_module, parts)
        if finding is not None:
            self.report(trainer, finding, once=True)
        is_over = finding is not None or (not batch and not trainer.sanity_checking)
        if is_over:
            self._parts = None
        return is_over

    def _allowed(self, parts: dict[str, str]) -> dict[str, str]:
        return {path: kind for path, kind in parts.items() if not any(fnmatchcase(path, name) for name in self.allow)}
