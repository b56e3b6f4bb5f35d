"""LT602 and LT603: does the gradient arrive, at the first layers and at every parameter?"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch.optim import Optimizer

from lightning_tuning.findings import Journal
from lightning_tuning.functional import tensor_norms
from lightning_tuning.measure import Meter, Reading, plain_name
from lightning_tuning.rules._weight_facts import is_whole, weight_facts
from lightning_tuning.rules.gradient_spread import comparable_weights, is_adaptive
from lightning_tuning.rules.no_gradient import SilenceJudge
from lightning_tuning.rules.vanishing_gradient import VanishingJudge, vanishing_cause
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.trace import Graph

__all__ = ["GradientVanishingMonitor"]

_UNDER_WAY = 100
"""Looks that have not landed; more were dropped on their way, with a batch that a guard left out."""
_MOVED = 1e-6
"""Of a norm; less is rounding. Who moves without a gradient is written to by somebody else: an average, a codebook."""


class GradientVanishingMonitor(TuningCallback):
    """Watches whether the gradient arrives: at the first layers (LT602), and at every trained parameter (LT603).

    Why: layers that no gradient reaches stay random, and the loss tells nothing of it: it falls to what the last layers
    can make of random features. LT602 compares the first layer's gradient with the last one's, over weights that can be
    compared (no embeddings, nothing frozen, nothing behind a gate that starts closed: LoRA, ReZero, LayerScale), and
    becomes a warning only where it persists in a run that does not learn; while the run learns nothing is said. The
    remedy is that of the cause seen in the first step: saturating activations, a plain recurrent net, depth, weights.

    LT603 is said once, of weights whose gradient is exactly 0 in the first ten steps and of parameters that have none
    in 200, while the rest of their module trains; of a whole module without a gradient only as an info. What LT401,
    LT414 and LT202 have said is not repeated.

    Changes nothing and never waits for the device: norms land some steps later. With several optimizers or manual
    optimization LT602 is not judged, under FSDP1 (whose flat pieces hide the parameters) LT603.

    Args:
        every_n_steps: optimizer steps from one look at the first layers to the next; 50 by default, so that three looks
            are over before a run is known to be flat (200 steps), and cost nothing in each step.
        ratio: first over last weight's gradient below which it vanishes; 1e-3 by default (AUTOTRAINER).
        norm: and the first one's gradient itself; 1e-4 by default.

    Raises:
        ValueError: if ``every_n_steps`` is no whole number of at least 1, or ``ratio`` or ``norm`` is not above 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientVanishingMonitor()], logger=False, accelerator="cpu")

    Source: Bengio et al. 1994; Glorot & Bengio 2010; Zhang et al. 2021 (AUTOTRAINER).
    """

    thresholds = (("LT602", "ratio"), ("LT602", "norm"))

    def __init__(self, every_n_steps: int = 50, ratio: float = 1e-3, norm: float = 1e-4) -> None:
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise ValueError(f"`every_n_steps` must be a whole number of at least 1, got {every_n_steps!r}.")
        for name, value in (("ratio", ratio), ("norm", norm)):
            if type(value) not in (int, float) or not value > 0:
                raise ValueError(f"`{name}` must be above 0, got {value!r}.")
        self.every_n_steps, self.ratio, self.norm = every_n_steps, ratio, norm
        self._begin()

    def _begin(self) -> None:
        self._vanishing: VanishingJudge | None = None
        self._silences: dict[int, SilenceJudge] = {}
        self._open: set[int] = set()
        self._steps: dict[int, int] = {}
        self._due: set[int] = set()
        self._norms: dict[str, float] = {}
        self._moved: set[str] = set()
        self._loaded: dict[str, Any] = {}
        self._is_sharded = False
        self._meter: Meter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace and the readings; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._begin()
        desk = Desk.of(trainer)
        self._meter = desk.meter
        self._is_sharded = isinstance(trainer.strategy, FSDPStrategy)
        desk.watch_loss()
        desk.request_trace(self._look)
        module: Any = weakref.proxy(pl_module)  # it holds the trainer, which the meter must not
        desk.meter.subscribe(functools.partial(self._judge, desk, module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what cannot be seen."""
        if self._is_sharded:
            note = "blind here: FSDP's flat pieces hide the parameters. May have missed something: LT603."
            Desk.of(trainer).journal.note(note)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Have the norms measured, as long as they are judged."""
        key = id(optimizer)
        self._steps[key] = steps = self._steps.get(key, 0) + 1
        is_due = steps % self.every_n_steps == 0
        if not (is_due or self._open or steps == 1):
            return
        if steps == 1:
            self._know(trainer, pl_module, optimizer)
        if is_due:
            self._due = {trainer.global_step, *(self._due if len(self._due) < _UNDER_WAY else ())}
        meter = self._meter or Desk.of(trainer).meter
        meter.gradient_norms(optimizer, self)

    def tuning_state(self) -> dict[str, Any]:
        """What was seen so far, and of whom."""
        known = {index: judge.state_dict() for index, judge in self._silences.items()}
        return {
            "silences": {**self._loaded.get("silences", {}), **known},
            "vanishing": self._loaded.get("vanishing") if self._vanishing is None else self._vanishing.state_dict(),
            "norms": dict(self._norms),
            "moved": sorted(self._moved),
        }

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it, as soon as the optimizers and the graph are known."""
        self._loaded = {"silences": dict(state["silences"]), "vanishing": state["vanishing"]}
        self._norms, self._moved = dict(state["norms"]), set(state["moved"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_meter": None, "_steps": {}}  # they are of this process

    def _know(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The optimizer's first step: what it holds is all there is from the start."""
        raw = getattr(optimizer, "optimizer", optimizer)
        optimizers = [getattr(one, "optimizer", one) for one in trainer.optimizers]
        index = next((i for i, one in enumerate(optimizers) if one is raw), 0)
        if not self._is_sharded and index not in self._silences:
            held = {id(p) for group in raw.param_groups for p in group["params"] if p.requires_grad}
            named = {plain_name(name): p.ndim >= 2 for name, p in pl_module.named_parameters() if id(p) in held}
            self._silences[index] = SilenceJudge(named)
            if (state := self._loaded.get("silences", {}).get(index)) is not None:
                self._silences[index].load_state_dict(state)
            if not self._silences[index].is_done:
                self._open.add(index)

    def _look(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """Which weights can be compared. A device sync, once in a run."""
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            return
        with Sparing(Desk.of(trainer).journal, self):
            facts = weight_facts({plain_name(name): p for name, p in pl_module.named_parameters()})
            weights = comparable_weights(graph, facts)
            if len(weights) < 2:
                return
            raw = getattr(trainer.optimizers[0], "optimizer", trainer.optimizers[0])
            self._vanishing = VanishingJudge(
                weights,
                adaptive=is_adaptive(raw),
                optimizer=type(raw).__name__,
                cause=vanishing_cause(graph),
                ratio=self.ratio,
                norm=self.norm,
            )
            if self._loaded.get("vanishing") is not None:
                self._vanishing.load_state_dict(self._loaded["vanishing"])

    def _judge(self, desk: Desk, pl_module: LightningModule, reading: Reading) -> None:
        if reading.optimizer in self._open:
            silence = self._silences[reading.optimizer]
            self._listen(desk, pl_module, silence, reading)
            if silence.is_done:
                self._open.discard(reading.optimizer)
        if reading.step in self._due and reading.grad_norm is not None:
            self._due.discard(reading.step)
            if self._vanishing is not None:
                self._compare(desk, self._vanishing, reading)

    def _compare(self, desk: Desk, judge: VanishingJudge, reading: Reading) -> None:
        finding = judge.judge(dict(zip(reading.names, reading.grad_norms, strict=True)), step=reading.step)
        is_said = any(known.code == "LT202" for known in desk.journal.findings)  # of the first steps
        if finding is not None and not is_said and desk.progress.state != "learning":
            desk.journal.report(finding, step=reading.step, epoch=reading.epoch)

    def _listen(self, desk: Desk, pl_module: LightningModule, silence: SilenceJudge, reading: Reading) -> None:
        """Take a reading; before the last one, see who moved without a gradient."""
        with Sparing(desk.journal, self):
            quiet: set[str] = set()
            if silence.seen in (silence.zeros - 1, silence.absent - 1):
                quiet = self._moved | _frozen(pl_module) | _explained(desk.journal, silence.silent)
            for finding in silence.take(reading.names, reading.grad_norms, quiet=quiet):
                desk.journal.report(finding, step=reading.step, epoch=reading.epoch, once=True)
            if silence.seen in (1, silence.absent // 2) and silence.unused:
                self._weigh(desk.meter, pl_module, silence.unused)

    def _weigh(self, meter: Meter, pl_module: LightningModule, names: list[str]) -> None:
        """The norms of parameters without a gradient, now and once more later; they land with the next batch."""
        own = {plain_name(name): p for name, p in pl_module.named_parameters()}
        whole = [name for name in names if name in own and is_whole(own[name])]

        def receive(numbers: list[list[float]]) -> None:
            for name, norm in zip(whole, numbers[0], strict=True):
                if abs(norm - self._norms.setdefault(name, norm)) > _MOVED * norm:
                    self._moved.add(name)

        if whole:
            meter.put([tensor_norms([own[name].detach() for name in whole])], receive)


def _frozen(pl_module: LightningModule) -> set[str]:
    return {plain_name(name) for name, p in pl_module.named_parameters() if not p.requires_grad}


def _explained(journal: Journal, names: Mapping[str, bool]) -> set[str]:
    """Of ``names`` those within a module that LT414 speaks of, or that LT401 names."""
    places = {finding.where for finding in journal.findings if finding.code in ("LT401", "LT414")}
    return {name for name in names for place in places if not place or f"{name}.".startswith(f"{place}.")}
