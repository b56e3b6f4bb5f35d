"""Clips gradients at a bound that the run itself gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.functional import clip_coefficient, scale_gradients_
from lightning_tuning.functional.module_globs import parse_globs
from lightning_tuning.guards._actions import local_gradients
from lightning_tuning.guards._clip_arguments import Method, checked_threshold
from lightning_tuning.guards._clip_parts import PartClipper, norm_after, refuse_run
from lightning_tuning.guards._clip_tally import Tally, clip_note
from lightning_tuning.guards._clip_thresholds import Fixed, Percentile, Threshold, ZScore
from lightning_tuning.measure import Meter, optimizer_index, scale_left_in
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.sparing import nothing_more_raised

__all__ = ["AdaptiveClipGuard"]


class AdaptiveClipGuard(TuningCallback):
    """Clips gradients where they are unusually large for this run, so that nobody has to know the number beforehand.

    Why: one batch in a thousand with a gradient a hundred times the others' undoes an epoch. Clipped has to be what is
    far above the usual, and what is usual depends on net, loss and batch size, and changes during the run. What the
    bound came to is said at the end of the run, as a number for ``Trainer(gradient_clip_val=...)``.

    ================ =====================================================================================
    ``"percentile"`` the norm, at a percentile of the last ``window`` norms (AutoClip)
    ``"zscore"``     the norm, at ``threshold`` standard deviations above its moving mean (ZClip)
    ``"agc"``        each unit's gradient, at ``threshold`` times the norm of the unit's weights (NFNets)
    ``"norm"``       the norm, at ``threshold``: as ``torch.nn.utils.clip_grad_norm_``
    ``"value"``      each element, at ``threshold``: as ``torch.nn.utils.clip_grad_value_``
    ================ =====================================================================================

    Norms are global L2 norms of one optimizer's gradients (each optimizer has a memory of its own), as they are before
    clipping: reduced over ranks, unscaled, summed over an accumulation window. They are measured once for all
    callbacks, who see what was there before clipping, wherever they stand in the list. The threshold of a step comes
    from the steps before it. A norm that is not finite is left to :class:`NanLossGuard`: its gradients stay as they are
    and it enters no memory; nor does a norm of 0.

    What grows step by step becomes the usual: a learning rate that is too high is not mended by any bound that follows
    the norms. There a lower rate helps, or a fixed ``"norm"``.

    Works in automatic and manual optimization, with accumulation, AMP (fused optimizers as well), DDP (same gradients,
    same threshold on every rank) and, but for ``"agc"``, sharded parameters. What adds to the gradients
    (:class:`L1Penalty`) is clipped too if it stands before this guard in the list.

    Price: the host never waits for the device. Norm, threshold and factor stay there; a handful of small kernels and
    one sort of ``window`` numbers each step (60 microseconds on a CPU), and a second norm for ``"agc"`` and
    ``"value"``. The window is in the checkpoint, and a resumed run goes on with it.

    Logs ``tuning/clip_threshold`` (a gradient norm; where it adapts) and, where no :class:`ClippingMonitor` does,
    ``tuning/clipped_share`` (of all updates so far, 0 to 1; of the units for ``"agc"``), through the trainer's loggers.

    Args:
        method: see above. Default ``"percentile"``: it has the fewest assumptions.
        percentile: for ``"percentile"``: 0 to 100. Default 90: one update in ten is clipped, the large ones. AutoClip's
            own 10 clips nine in ten, which is a lower learning rate in disguise (LT606).
        window: for ``"percentile"``: norms that are remembered. Default 1000: long enough that a hundred bad steps are
            still clipped, short enough to follow the norms as they fall.
        threshold: for ``"zscore"``: standard deviations, default 2.5 (ZClip's); for ``"agc"``: share of the weights'
            norm, default .01 (the paper's, for batches of 4096; small batches bear more); for ``"value"`` and
            ``"norm"``: the bound, without a default. ``"percentile"`` takes none.
        warmup: for ``"percentile"`` and ``"zscore"``: updates that are only measured, unclipped. Default 25 (ZClip's):
            of fewer the 90th percentile is hardly more than the largest but one.
        exclude: for ``"agc"``: globs on dotted names, parameters or modules that are not clipped. Default ``None``: the
            last layer (the parameters of the module registered last), whose gradients the authors found best left
            alone; ``[]`` clips that one too.

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: at the start of fit: with ``Trainer(gradient_clip_val=...)`` or a second such guard,
            which would clip what is clipped; under DeepSpeed, which keeps the gradients to itself; for ``"agc"`` with
            sharded parameters, whose units no rank has whole; for an ``exclude`` that matches nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[AdaptiveClipGuard()], logger=False, accelerator="cpu")
        >>> AdaptiveClipGuard("norm")
        Traceback (most recent call last):
        ...
        ValueError: `threshold` must be a number above 0 for method='norm', got None.

    Source:
        Seetharaman et al. 2020, AutoClip; Kumar et al. 2025, ZClip; Brock et al. 2021, High-performance large-scale
        image recognition without normalization, section 4.1; Google tuning playbook (clip at the 90th percentile).
    """

    def __init__(
        self,
        method: Method = "percentile",
        *,
        percentile: float = 90.0,
        window: int = 1000,
        threshold: float | None = None,
        warmup: int = 25,
        exclude: str | Iterable[str] | None = None,
    ) -> None:
        bound = checked_threshold(method, percentile=percentile, window=window, threshold=threshold, warmup=warmup)
        self.method, self.percentile, self.window = method, float(percentile), window
        self.threshold, self.warmup = bound, warmup
        self.exclude = parse_globs("exclude", exclude)
        self._begin()

    def _begin(self) -> None:
        self._meter: Meter | None = None
        self._parts: PartClipper | None = None
        self._thresholds: dict[int, Threshold] = {}
        self._tallies: dict[int, Tally] = {}
        self._loaded: dict[str, dict[int, Any]] = {"thresholds": {}, "tallies": {}}
        self._logs_share = self._has_told = self._may_lack_all = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to be the second who clips; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            self._meter = Desk.of(trainer).meter
            refuse_run(trainer, self, self.method)
            self._may_lack_all = isinstance(trainer.strategy, FSDPStrategy)  # a rank may hold no piece of any

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn which units there are, and who logs."""
        self._logs_share = "tuning/clipped_share" not in Desk.of(trainer).meter.claimed
        if self.method in ("agc", "value"):
            self._parts = PartClipper(pl_module, self.method, self.threshold, self.exclude)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Clip; nothing is read back."""
        meter = self._meter or Desk.of(trainer).meter
        norms = meter.gradient_norms(optimizer, self)
        gradients = local_gradients([optimizer])
        if not norms.names or not (gradients or self._may_lack_all):
            return  # somebody has dropped this update
        norm = norms.total if isinstance(norms.total, Tensor) else torch.tensor(norms.total)
        index = optimizer_index(trainer, optimizer)
        tally = self._tally_of(index, norm.device)
        if self._parts is not None:
            scale = scale_left_in(getattr(trainer.precision_plugin, "scaler", None), optimizer)
            clipped, of_all = self._parts.clip(optimizer, gradients, norm, scale)
            after = norm_after(optimizer, scale)
            bound = norm if after is None else after.to(norm.device, non_blocking=True)
        else:
            rule = self._threshold_of(index, norm.device)
            bound = rule.now()
            coefficient = clip_coefficient(norm, bound)
            rule.learn(norm)
            if not coefficient.is_cpu or coefficient < 1:  # where it lies on the host, asking costs less than scaling
                scale_gradients_(gradients, coefficient)
            clipped, of_all = coefficient < 1, norm.isfinite()
        tally.add(clipped, of_all)
        meter.clip_at(optimizer, bound)
        self._log(trainer, meter, index, bound, tally)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the threshold came to."""
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise, as far as the run came."""
        with nothing_more_raised():
            self._close(trainer)

    def tuning_state(self) -> dict[str, Any]:
        """The norms of each optimizer, and how many were clipped."""
        rules = {index: rule.state_dict() for index, rule in self._thresholds.items()}
        tallies = {index: tally.state_dict() for index, tally in self._tallies.items()}
        return {
            "method": self.method,
            "thresholds": {**self._loaded["thresholds"], **rules},
            "tallies": {**self._loaded["tallies"], **tallies},
        }

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with them; a memory of another method's says nothing."""
        if state["method"] == self.method:
            self._thresholds, self._tallies = {}, {}
            self._loaded = {"thresholds": dict(state["thresholds"]), "tallies": dict(state["tallies"])}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_meter": None, "_parts": None}  # they are of this process

    def _threshold_of(self, index: int, device: torch.device) -> Threshold:
        if index not in self._thresholds:
            if self.method == "percentile":
                rule: Threshold = Percentile(device, self.percentile, self.window, self.warmup)
            elif self.method == "zscore":
                rule = ZScore(device, self.threshold, self.warmup)
            else:
                rule = Fixed(device, self.threshold)
            if (state := self._loaded["thresholds"].pop(index, None)) is not None:
                rule.load_state_dict(state)
            self._thresholds[index] = rule
        return self._thresholds[index]

    def _tally_of(self, index: int, device: torch.device) -> Tally:
        if index not in self._tallies:
            self._tallies[index] = Tally(device)
            if (state := self._loaded["tallies"].pop(index, None)) is not None:
                self._tallies[index].load_state_dict(state)
        return self._tallies[index]

    def _log(self, trainer: Trainer, meter: Meter, index: int, bound: Tensor, tally: Tally) -> None:
        log_step = meter.log_step
        if log_step is None:
            return
        several = f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""
        adapts, logs_share = self.method in ("percentile", "zscore"), self._logs_share

        def receive(numbers: list[list[float]]) -> None:
            (threshold,), (share,) = numbers
            known = {"tuning/clip_threshold": threshold} if adapts and threshold < float("inf") else {}
            known |= {"tuning/clipped_share": share} if logs_share else {}
            if known:
                meter.log({f"{name}{several}": number for name, number in known.items()}, log_step)

        meter.put([bound, tally.share()], receive)

    def _close(self, trainer: Trainer) -> None:
        desk = Desk.find(trainer)  # none, if what ended the run came before its set-up
        note = clip_note(self.method, self.percentile, self._tallies, self._thresholds)
        if desk is not None and note is not None and not self._has_told:
            self._has_told = True
            desk.journal.note(note)
