"""Watches hidden activations: dead units, saturated units, collapsed attention (LT608-LT611)."""

from __future__ import annotations

import functools
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.measure import Landing
from lightning_tuning.monitors._activation_verdict import Verdict
from lightning_tuning.monitors._activation_watch import ActivationWatch, sites_of
from lightning_tuning.monitors._score_probe import ScoreProbe
from lightning_tuning.rules._activation_layers import ActivationLayer, activation_layers
from lightning_tuning.rules.suggest_normalization import BAD, suggest_normalization
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.trace import Graph, why_not_live

__all__ = ["ActivationMonitor"]

_AT_FIRST = 16
"""Batches from one look to the next in the first :data:`_WINDOW`: the first verdict comes after 192 batches."""
_WINDOW = 12
"""Looks that make a verdict. Ten are asked for, so that a batch without a loss does not cost one."""


class ActivationMonitor(TuningCallback):
    """Looks at the hidden activations of a step now and then, and says which of them tell nothing any more.

    Dead units (LT608: ReLU and its kin at 0 for every sample, without a gradient, more than half of a layer), saturated
    ones (LT609: tanh or sigmoid in their flat ends, more than half of a layer's values), attention that sees one key or
    all alike (LT611), and scores that are too large before training. Where a deep plain net was measured bad (LT201,
    LT202, LT602) it says where a normalization would help (LT610).

    Why: such a layer passes little or no gradient, so that it does not come back by itself, and the loss does not tell
    where the net has become narrow.

    What is a hidden unit, a gate or an output is read off the trace of the first step, whether written as modules or as
    functions. In a look a torch function mode watches those activations alone, in the real step, and counts on the
    device; twelve looks make a verdict, at a batch that every rank reaches, and the ranks add up what they saw. A layer
    that did not run in ten of them (a branch, an expert) is not judged. Changes nothing and never waits for the device.
    Steps that :func:`why_not_live` objects to (compiled modules) are not looked at, which is said.

    Logs at each verdict ``tuning/dead_units`` and ``tuning/saturated_units`` (the worst layer's share, 0 to 1) and
    ``tuning/attention_entropy`` (mean over queries and attentions, 1 where all keys are seen alike) through the
    trainer's loggers, as far as the net has such layers.

    Args:
        every_n_steps: batches from one look to the next, 50 by default: a look costs a small net a tenth of a step,
            and what is dead stays so. The first twelve come every 16 batches, if that is more often.

    Raises:
        ValueError: if ``every_n_steps`` is no integer of at least 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ActivationMonitor()], logger=False, accelerator="cpu")

    Source: Lu et al. 2020, Dying ReLU and Initialization; Glorot & Bengio 2010; Zhai et al. 2023.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise ValueError(f"`every_n_steps` must be an integer of at least 1, got {every_n_steps!r}.")
        self.every_n_steps = every_n_steps
        self._begin()

    def _begin(self) -> None:
        self._batches, self._looks = 0, 0
        self._due: float = max(2, min(_AT_FIRST, self.every_n_steps))  # the first step is traced
        self._since = 0
        self._is_looking = self._has_agreed = self._is_blind = False
        self._layers: list[ActivationLayer] = []
        self._graph: Graph | None = None
        self._watch: ActivationWatch | None = None
        self._restored: dict[str, Any] = {}
        self._probe = ScoreProbe()
        self._landing = Landing()
        self._has_advised = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._begin()
        desk = Desk.of(trainer)
        desk.watch_loss()
        desk.request_trace(self._learn, (self._probe,))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A look, if it is time for one."""
        self._batches += 1
        if self._batches >= self._due:
            self._look(trainer, pl_module)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """With automatic optimization the forward pass is over."""
        if self._is_looking and self._watch is not None and pl_module.automatic_optimization:
            self._watch.stop()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up what was seen; judge it after twelve looks."""
        if self._is_looking:
            self._finish(trainer, pl_module)
        if self._landing:
            self._landing.collect()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A batch that the module left out in its ``on_train_batch_start`` had no end."""
        self._abandon()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See :meth:`on_train_epoch_end`."""
        self._abandon()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last verdict lands."""
        self._abandon()
        self._landing.collect(wait=True)
        self._advise(trainer)
        self._graph = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind."""
        self._abandon()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See :meth:`on_exception`."""
        self._abandon()

    def tuning_state(self) -> dict[str, Any]:
        """What was seen since the last verdict."""
        state: dict[str, Any] = {
            "batches": self._batches, "looks": self._looks, "due": self._due, "since": self._since,
            "has_advised": self._has_advised,
        }  # fmt: skip
        if self._watch is not None:
            state["layers"] = [list(layer.key) for layer in self._watch.layers]
            state["counts"] = self._watch.counts.counts()
        return state

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._batches, self._looks, self._due = state["batches"], state["looks"], state["due"]
        self._since, self._has_advised = state["since"], state["has_advised"]
        self._restored = state

    def __getstate__(self) -> dict[str, Any]:
        return {"every_n_steps": self.every_n_steps, "_checkpoint_name": self._checkpoint_name}  # the rest is one run's

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _learn(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """The first step is traced: what is there to look at?"""
        with Sparing(Desk.of(trainer).journal, self):
            layers = activation_layers(graph)
            if len(trainer.optimizers) > 1:  # a discriminator may be as sure as it likes
                layers = [layer for layer in layers if layer.kind != "squash"]
            self._graph, self._layers = graph, layers
            for finding in self._probe.findings(graph, layers, pl_module) if trainer.global_step == 0 else ():
                self.report(trainer, finding, once=True)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._abandon()
        if not self._has_agreed:
            with Sparing(Desk.of(trainer).journal, self):
                self._agree(trainer, pl_module)
        if self._watch is None:
            self._due = float("inf")
            return
        self._looks += 1
        self._due += min(_AT_FIRST, self.every_n_steps) if self._looks < _WINDOW else self.every_n_steps
        self._is_looking = True
        desk = Desk.of(trainer)
        with Sparing(desk.journal, self):
            if (reason := why_not_live(pl_module)) is not None:
                if not self._is_blind:
                    self._is_blind = True
                    desk.journal.note(f"blind here: {reason} ActivationMonitor does not look at such steps.")
            elif not (desk.tracer.running or desk.tracer.wanted):
                self._watch.start()

    def _agree(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what every rank has in its graph: their samples may have gone other ways. Once in a fit."""
        self._has_agreed = True
        graph, layers, several = self._graph, self._layers, trainer.world_size > 1
        if several:
            everybody: list[list[tuple[str, ...]]] = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(everybody, [layer.key for layer in layers])
            own = {layer.key: layer for layer in layers}
            layers = [own[key] for key in everybody[0] if all(key in keys for keys in everybody)]
        if not layers or graph is None:
            return
        self._watch = ActivationWatch(pl_module, layers, sites_of(graph, layers), several=several)
        keys = [list(layer.key) for layer in layers]
        if not several and self._restored.get("layers") == keys:  # of several ranks a checkpoint knows but the first
            self._watch.counts.load_counts(self._restored["counts"])
        self._restored = {}
        if suggest_normalization(graph, BAD) is None:
            self._graph = None  # nothing more to ask it

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of a looked-at batch: the same collectives on every rank, whatever was seen."""
        self._is_looking, watch = False, self._watch
        if watch is None:
            return
        with Sparing(Desk.of(trainer).journal, self):
            watch.finish(pl_module)
        if self._looks % _WINDOW == 0:
            log_step = Desk.of(trainer).meter.log_step
            verdict = Verdict(
                watch.layers, trainer.world_size, self._since, trainer.global_step, trainer.current_epoch, log_step
            )
            counted = watch.counts.compute()
            watch.counts.reset()
            self._since = trainer.global_step
            receive = functools.partial(self._judge, trainer, verdict)
            self._landing.send([counted.flatten()], receive)
            self._advise(trainer)

    def _judge(self, trainer: Trainer, verdict: Verdict, landed: list[list[float]]) -> None:
        desk = Desk.of(trainer)
        with Sparing(desk.journal, self):
            for finding in verdict.findings(landed[0]):
                if trainer.is_global_zero:  # all ranks know the same
                    desk.journal.report(finding, step=verdict.step, epoch=verdict.epoch)
            verdict.hand_on(desk.meter, landed[0])

    def _advise(self, trainer: Trainer) -> None:
        """LT610, once somebody has measured that the net needs it."""
        journal = Desk.of(trainer).journal
        codes = {finding.code for finding in journal.findings} & BAD.keys()
        if self._has_advised or self._graph is None or not codes:
            return
        with Sparing(journal, self):
            self._has_advised = True
            if (finding := suggest_normalization(self._graph, codes)) is not None:
                self.report(trainer, finding, once=True)

    def _abandon(self) -> None:
        if self._watch is not None:
            self._watch.stop()
