"""LT301: does a dropout feed a batch norm?"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.checks._dropout_repair import dropout_module, move_dropout, place_behind, replace_dropout
from lightning_tuning.findings import Severity
from lightning_tuning.rules._ops import place
from lightning_tuning.rules.dropout_before_batchnorm import Conflict, dropout_batchnorm_conflicts
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.trace import Graph

__all__ = ["DropoutBNConflictWarning"]

OnConflict = Literal["warn", "raise", "disable", "move", "uout"]


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
            modules stay so after the fit, and a resumed run disables them before its first batch. ``"move"`` puts the
            dropout behind the last batch norm of its ``nn.Sequential``, where the trace shows that this is safe, and
            else leaves it, with the reason in the summary: only activations, weight layers and pooling may stand
            between, and no batch norm may follow outside of the ``Sequential``. Several that would come to one place
            become one, of the largest rate; where a dropout follows anyway, the conflicting one is only disabled.
            ``"uout"`` replaces the dropout module by uniform noise,
            :class:`lightning_tuning.functional.UOut` with ``beta=.1``, which leaves the variance nearly as it was.
            Both keep all names of parameters, so that checkpoints of the net with and without fit, and both are done
            again by a resumed run before its first batch.
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
        self._forget()

    def _forget(self) -> None:
        self.disabled: list[str] = []
        self.moved: dict[str, str] = {}
        self.replaced: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._forget()
            Desk.of(trainer).request_trace(self._look)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run starts with the dropouts that its first part had disabled, moved and replaced."""
        for name, target in self.moved.items():
            move_dropout(pl_module, name, target)
        for name in self.replaced:
            replace_dropout(pl_module, name)
        for name in self.disabled:
            if (module := dropout_module(pl_module, name)) is not None:
                module.p = 0.0

    def tuning_state(self) -> dict[str, Any]:
        """The names of what was changed: ``p`` is in no state dict, and neither are layers without parameters."""
        state = {"disabled": list(self.disabled), "moved": dict(self.moved), "replaced": list(self.replaced)}
        return state if any(state.values()) else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """See :meth:`tuning_state`."""
        self.disabled = list(state["disabled"])
        self.moved = dict(state.get("moved", {}))  # not in checkpoints of versions that could only disable
        self.replaced = list(state.get("replaced", []))

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
            elif self.on_conflict == "move":
                self._move(trainer, pl_module, graph, conflict)
            elif self.on_conflict == "uout":
                self._replace(trainer, pl_module, conflict)

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

    def _move(self, trainer: Trainer, pl_module: LightningModule, graph: Graph, conflict: Conflict) -> None:
        journal, name = Desk.of(trainer).journal, conflict.dropout.module
        target, reason = place_behind(pl_module, graph, conflict)
        if target is None:
            journal.note(f"left the dropout {place(conflict.dropout)} where it is: {reason}.")
        elif reason:
            journal.note(f"disabled the dropout `{name}`: {reason}.")
            pl_module.get_submodule(name).p = 0.0  # type: ignore[assignment]  # of a dropout, a float
            self.disabled.append(name)
        elif name not in self.moved:
            move_dropout(pl_module, name, target)
            journal.note(f"moved the dropout `{name}` behind the batch norm `{target}`, the last of its Sequential.")
            self.moved[name] = target

    def _replace(self, trainer: Trainer, pl_module: LightningModule, conflict: Conflict) -> None:
        journal, name = Desk.of(trainer).journal, conflict.dropout.module
        if name in self.replaced:
            return
        if replace_dropout(pl_module, name):
            journal.note(f"replaced the dropout `{name}`, which feeds a batch norm, by uniform noise (UOut).")
            self.replaced.append(name)
        else:
            journal.note(
                f"could not replace the functional dropout at {conflict.dropout.source_line}: change it there."
            )
