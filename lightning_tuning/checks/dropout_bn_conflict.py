"""LT301: does a dropout feed a batch norm?"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_tuning.findings import Severity
from lightning_tuning.rules.dropout_before_batchnorm import Conflict, dropout_batchnorm_conflicts
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.trace import Graph

__all__ = ["DropoutBNConflictWarning"]

OnConflict = Literal["warn", "raise", "disable"]


class DropoutBNConflictWarning(TuningCallback):
    """Looks once, at the first training step, whether an active dropout feeds a batch norm (LT301).

    Why: the batch norm keeps the variance of training, evaluation without dropout has another one, and the net is off
    by that shift at test time only. It is judged on the dataflow of the real step, so functional dropout, residual
    branches and custom modules are seen; ``p=0``, batch norms in eval mode, dropout behind the last batch norm (head
    dropout) and anything with another normalization between are not conflicts. How much the shift hurts depends on the
    width (almost nothing at 512 channels), which a look at the graph can't tell: measure before you rebuild.

    Args:
        on_conflict: ``"warn"`` (default) reports; ``"raise"`` ends the run with :class:`TuningError` before its first
            update; ``"disable"`` sets ``p = 0`` on the conflicting dropout modules, and on them only, from the second
            batch of the run on at the latest (functional dropouts are reported, they can't be reached). Disabled
            modules stay so after the fit, and a resumed run disables them before its first batch.
        severity: of the findings: ``"warning"`` (default), because who attaches this wants to hear of it; in
            :class:`TuningSuite` it is ``"info"``.

    Raises:
        ValueError: for any other ``on_conflict`` or ``severity``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(
        ...     callbacks=[DropoutBNConflictWarning(on_conflict="disable")], logger=False, accelerator="cpu"
        ... )

    Source: Li et al. 2019, "Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift".
    """

    def __init__(self, on_conflict: OnConflict = "warn", severity: str | Severity = "warning") -> None:
        if on_conflict not in get_args(OnConflict):
            raise ValueError(f"`on_conflict` must be one of {get_args(OnConflict)}, got {on_conflict!r}.")
        self.on_conflict = on_conflict
        self.severity = Severity.parse(str(severity))
        self.disabled: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.disabled = []
            Desk.of(trainer).request_trace(self._look)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run starts with the dropouts that its first part had disabled."""
        for name in self.disabled:
            if (module := dropout_module(pl_module, name)) is not None:
                module.p = 0.0

    def tuning_state(self) -> dict[str, Any]:
        """The names of the disabled modules: ``p`` is in no state dict."""
        return {"disabled": list(self.disabled)} if self.disabled else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """See :meth:`tuning_state`."""
        self.disabled = list(state["disabled"])

    def _look(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        conflicts: list[Conflict] = []
        with Sparing(Desk.of(trainer).journal, self):
            conflicts = dropout_batchnorm_conflicts(graph)
        for conflict in conflicts:
            finding = dataclasses.replace(conflict.finding, severity=self.severity)
            if self.on_conflict == "raise":
                self.fail(trainer, finding)
            self.report(trainer, finding, once=True)
            if self.on_conflict == "disable":
                self._disable(trainer, pl_module, conflict)

    def _disable(self, trainer: Trainer, pl_module: LightningModule, conflict: Conflict) -> None:
        journal = Desk.of(trainer).journal
        name = conflict.dropout.module
        module = dropout_module(pl_module, name)
        if module is None:
            journal.note(
                f"could not disable the functional dropout at {conflict.dropout.source_line}: change it there."
            )
        elif name not in self.disabled:
            journal.note(f"disabled the dropout `{name}` (p={module.p:g} -> 0), which feeds a batch norm.")
            module.p = 0.0
            self.disabled.append(name)


def dropout_module(root: nn.Module, name: str) -> _DropoutNd | None:
    """The dropout module of that dotted name, or ``None`` if it is something else that called a functional dropout."""
    try:
        module = root.get_submodule(name)
    except AttributeError:  # the checkpoint is of another model
        return None
    return module if isinstance(module, _DropoutNd) else None
