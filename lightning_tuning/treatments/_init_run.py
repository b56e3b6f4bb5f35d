"""The initialisation of one fit: at once what needs no batch, the rest when the first one comes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.functional._layers import bias_bound
from lightning_tuning.rules._prior_head import PriorHead
from lightning_tuning.runtime.fresh_weights import is_set_bias
from lightning_tuning.trace import Recorder
from lightning_tuning.trace._modules import clean_path
from lightning_tuning.treatments._init_draw import Painter, layer_recipe, send_to_all
from lightning_tuning.treatments._init_head import find_prior
from lightning_tuning.treatments._init_look import Step, look_at_step, run_aside
from lightning_tuning.treatments._init_lsuv import LsuvProbe
from lightning_tuning.treatments._init_memory import Memory
from lightning_tuning.treatments._init_options import InitOptions
from lightning_tuning.treatments._init_report import InitReport
from lightning_tuning.treatments._init_residual import treat_branches
from lightning_tuning.treatments._init_survey import HANDLED, SET, Target, survey
from lightning_tuning.treatments._init_trace import Use

__all__ = ["InitRun"]


class InitRun:
    """What is done to the weights of ``pl_module`` in one fit.

    Attributes:
        report: grows with it.
        is_waiting: a batch is needed.
    """

    def __init__(self, pl_module: LightningModule, options: InitOptions, seed: int) -> None:
        self.report = InitReport(seed)
        self.is_waiting = False
        self._module, self._options = pl_module, options
        self._painter = Painter(pl_module, self.report, options)
        self._memory = Memory.of(pl_module)
        self._waiting: list[Target] = []
        self._handled: frozenset[str] = frozenset()
        self._attempts = 0

    def start(self, trainer: Trainer) -> None:
        """Fill what can be filled without a batch."""
        if trainer.global_step > 0:
            self.leave_alone("the trainer continues an earlier fit")
            return
        self._handled = frozenset(self._memory.handled)
        targets, self.report.left_alone = survey(self._module, self._options.selection, self._memory)
        for target in targets:
            recipe = layer_recipe(target)
            if self._options.wants_look or (recipe is None and not callable(target.choice)):
                self._waiting.append(target)
                for name in (target.name, *target.biases):
                    self._memory.remember_fresh(name, self._module.get_parameter(name))
            else:
                self._fill(target, None if recipe is None else Use(recipe))
        is_over = HANDLED in self.report.left_alone.values()
        self.is_waiting = bool(self._waiting) or (self._options.wants_look and not is_over)

    def leave_alone(self, reason: str) -> None:
        """Touch nothing, or nothing more."""
        names = [name for name, parameter in self._module.named_parameters() if parameter.dim() > 1]
        self._memory.handled.update(names)
        self.report.initialized.clear()
        self.report.left_alone = dict.fromkeys(names, reason)
        self._stop_waiting()

    def end(self, reason: str) -> None:
        """The run is over, and some weights still wait."""
        self.report.left_alone.update({target.name: reason for target in self._waiting})
        self._stop_waiting()

    def take_batch(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        """Look at the step of this batch, and do what waits for it, unless the step has no loss."""
        self._attempts += 1
        step = Step(trainer, self._module, batch, batch_idx)
        look = look_at_step(step, self._waiting, self._options, attempt=self._attempts)
        if look is None:
            return
        targets = self._waiting
        self._stop_waiting()
        for target in targets:
            use = look.uses[target.name]
            if isinstance(use, str):
                self.report.left_alone[target.name] = use
            else:
                self._fill(target, use)
        done = {row.name for row in self.report.initialized}
        filled = {clean_path(target.name): target for target in targets if target.name in done}
        if self._options.residual != "keep":
            treat_branches(self._painter, look.branches, look.outputs, filled, self._options)
        self._scale_to_unit_variance(step, filled)
        if self._options.head_bias == "prior":
            self.report.notes.append(f"head_bias 'prior': {self._put_prior(step, look.head, targets)}")
        send_to_all(self._module, dict.fromkeys(self._painter.touched))

    def sort(self) -> None:
        """Rows of the report in the order of ``named_parameters``."""
        order = {name: place for place, (name, _) in enumerate(self._module.named_parameters())}
        self.report.initialized.sort(key=lambda row: order[row.name])

    def _fill(self, target: Target, use: Use | None) -> None:
        self._painter.fill(target, use)
        self._memory.handled.add(target.name)

    def _stop_waiting(self) -> None:
        self._waiting, self.is_waiting = [], False

    def _scale_to_unit_variance(self, step: Step, filled: dict[str, Target]) -> None:
        """The second half of LSUV; the weights are orthonormal by now, and switched-off branches are off."""
        wanted = {name: target.name for name, target in filled.items() if self._is_to_scale(target)}
        if not wanted:
            return
        probe = LsuvProbe(wanted, self._options.lsuv_tol)
        run_aside(step, Recorder(self._module, step.batch, [probe]), self._options)
        scales = step.trainer.strategy.broadcast(probe.scales)
        failed, missed = [], []
        for traced, name in wanted.items():
            if (found := scales.get(traced)) is None:
                failed.append(traced)
                continue
            self._painter.scale(name, found.scale, "lsuv", (found.before, found.after))
            if not abs(found.after - 1) < self._options.lsuv_tol:
                missed.append(f"{traced} ({found.after:.3g})")
        if failed:
            why = "their output is constant or not finite on the first batch, or was not seen"
            self.report.notes.append(f"lsuv: not scaled, {why}: {', '.join(failed)}")
        if missed:
            self.report.notes.append(f"lsuv: the biases keep the variance from 1 at {', '.join(missed)}")

    def _is_to_scale(self, target: Target) -> bool:
        is_lsuv = target.choice == "lsuv" and layer_recipe(target) is None
        return is_lsuv and self.report.row(target.name).scheme == "orthogonal"

    def _put_prior(self, step: Step, head: PriorHead | str, targets: list[Target]) -> str:
        """Set the output's bias; what was done, or why not."""
        if isinstance(head, str):
            return f"left, {head}"
        name = self._painter.real_name(head.bias)
        if obstacle := self._obstacle(name, head, targets):
            return f"{head.bias} left, {obstacle}"
        found = find_prior(
            step.trainer,
            self._module,
            step.batch,
            head,
            batches=self._options.prior_batches,
            seed=self.report.seed,
        )
        if isinstance(found, str):
            return f"{head.bias} left, {found}"
        weight = self._painter.real_name(head.weight) if head.weight else ""
        self._painter.set_bias(name, weight, found.bias.to(self._module.get_parameter(name)))
        self._memory.handled.add(name)
        low, high = float(found.bias.min()), float(found.bias.max())
        values = f"{low:.3g}" if head.units == 1 else f"{low:.3g} to {high:.3g}"
        return f"{head.bias} is {values}, from {found.size} targets"

    def _obstacle(self, name: str, head: PriorHead, targets: list[Target]) -> str:
        """Why this bias is not for us."""
        bias = self._module.get_parameter(name)
        owner = self._module.get_submodule(name.rpartition(".")[0])
        if not bias.requires_grad:
            return "it is frozen"
        if not self._options.selection.takes(name, owner):
            return "it is excluded" if self._options.selection.include is None else "it is not included"
        if {name, self._painter.real_name(head.weight) if head.weight else ""} & self._handled:
            return HANDLED
        if self._options.selection.overwrite or any(name in target.biases for target in targets):
            return ""
        is_somebodys = any(name in target.set_biases for target in targets) or is_set_bias(bias, bias_bound(owner))
        return SET if is_somebodys else ""
