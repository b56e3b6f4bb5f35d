"""LT606: is clipping the exception, or the rule?"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.functional import global_norm, tensor_norms
from lightning_tuning.measure import Meter, Reading, optimizer_index
from lightning_tuning.rules.clipping_always import ClippingJudge
from lightning_tuning.rules.gradient_spread import is_adaptive
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.runtime.clip_bound import clip_bound

__all__ = ["ClippingMonitor"]

_EVERY = 5
"""Optimizer steps from one reading to the next: a share of 40 is known to 8 %, and Lightning logs at multiples of 5."""
_UNDER_WAY = 100
"""Readings to be logged that have not landed; more were dropped on their way, with a batch that a guard left out."""
_JUDGED = 10
"""Readings from one verdict to the next."""


class _Facts(NamedTuple):
    """What a finding says of its optimizer, as it was at the last reading."""

    where: str
    lr: float | None
    adaptive: bool
    epoch: int


class ClippingMonitor(TuningCallback):
    """Watches how often gradients are clipped, and says where that is the rule instead of the exception (LT606).

    Why: where most steps are clipped the bound sets the length of every update, as a lower learning rate would, and no
    schedule knows of it. The finding says the share, the bound, the 90th percentile of the norms as a better one, and
    the learning rate that has the same effect. Only of a run that does not learn: recipes that clip at every step and
    learn are left alone, and of Adam and its kin, which divide by the gradients' own size, it is an info.

    Whoever clips is seen: ``Trainer(gradient_clip_val=...)``; a callback of ours; the module's own
    ``configure_gradient_clipping``, by the norms before and after; and what clips before the optimizer steps (manual
    optimization, ``on_after_backward``) by effect, since then most norms are one and the same round number. Clipping of
    a few parameters by themselves is not seen, and under FSDP, DTensor and a GradScaler with a fused optimizer nothing
    that only norms after clipping would tell.

    Every fifth step is read; norms land some steps later, and are those that other callbacks ask for too. Changes
    nothing, never waits for the device.

    Logs ``tuning/clipped_share`` (of the last ``window`` updates, 0 to 1) through the trainer's loggers, where somebody
    clips; with several optimizers ``tuning/clipped_share/optimizer_0`` and so on.

    Args:
        window: optimizer steps that are looked back on; 200 by default: as long as it takes until a run is known not to
            learn.
        share: of them that are clipped, above which it is the rule; 0.5 by default.

    Raises:
        ValueError: if ``window`` is no whole number of at least 20, or ``share`` not between 0 and 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ClippingMonitor()], gradient_clip_val=1.0, logger=False, accelerator="cpu")

    Source: Google tuning playbook, 'How can optimization failures be debugged and mitigated?'
    """

    def __init__(self, window: int = 200, share: float = 0.5) -> None:
        if type(window) is not int or window < 20:
            raise ValueError(f"`window` must be a whole number of at least 20, got {window!r}.")
        if type(share) not in (int, float) or not 0 < share < 1:
            raise ValueError(f"`share` must be between 0 and 1, got {share!r}.")
        self.window, self.share = window, share
        self._begin()

    def _begin(self) -> None:
        self._judges: dict[int, ClippingJudge] = {}
        self._readings: dict[int, int] = {}
        self._facts: dict[int, _Facts] = {}
        self._to_log: dict[int, int] = {}
        self._bound: float | None = None
        self._by_effect = False
        self._optimizers = 1
        self._meter: Meter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Subscribe to the meter; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._begin()
        desk = Desk.of(trainer)
        self._meter = desk.meter
        desk.watch_loss()
        desk.meter.claimed.add("tuning/clipped_share")
        desk.meter.subscribe(functools.partial(self._receive, desk))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn who clips."""
        self._optimizers = max(1, len(trainer.optimizers))
        self._bound, self._by_effect = clip_bound(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Have the norms measured, every few steps."""
        if (trainer.global_step // self._optimizers + 1) % _EVERY:
            return
        meter = self._meter or Desk.of(trainer).meter
        norms = meter.gradient_norms(optimizer, self)
        index = optimizer_index(trainer, optimizer)
        title, lr = type(optimizer).__name__, optimizer.param_groups[0].get("lr")
        self._facts[index] = _Facts(
            where=f"{title} {index}" if self._optimizers > 1 else title,
            lr=float(lr) if isinstance(lr, int | float) else None,  # to read a tensor may wait
            adaptive=is_adaptive(optimizer),
            epoch=trainer.current_epoch,
        )
        step = trainer.global_step
        if (log_step := meter.log_step) is not None:
            self._to_log = {step: log_step} if len(self._to_log) >= _UNDER_WAY else {**self._to_log, step: log_step}
        if self._by_effect and norms.names:
            look = functools.partial(self._look_again, optimizer, index, step, norms.total)
            Desk.of(trainer).watch("train_batch_end", look)

    def tuning_state(self) -> dict[str, Any]:
        """The norms seen last, and how many."""
        return {
            "judges": {index: judge.state_dict() for index, judge in self._judges.items()},
            "readings": dict(self._readings),
        }

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with them."""
        for index, judge in state["judges"].items():
            self._judge_of(index).load_state_dict(judge)
        self._readings = dict(state["readings"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_meter": None}  # it is of this process

    def _judge_of(self, optimizer: int) -> ClippingJudge:
        if optimizer not in self._judges:
            self._judges[optimizer] = ClippingJudge(self.window // _EVERY, self.share)
        return self._judges[optimizer]

    def _receive(self, desk: Desk, reading: Reading) -> None:
        """A reading has landed."""
        if reading.optimizer is None or reading.grad_norm is None or (reading.step // self._optimizers + 1) % _EVERY:
            return
        bound = reading.clip if reading.clip is not None else self._bound
        if bound is None and self._by_effect:
            return  # the norm after is under way
        after = None if bound is None else min(reading.grad_norm, bound)
        self._take(desk, reading.optimizer, reading.step, reading.grad_norm, after)

    def _look_again(
        self, optimizer: Optimizer, index: int, step: int, before: Tensor | float, trainer: Trainer, *_: Any
    ) -> bool:
        """The batch has ended; the gradients are still those that the optimizer got."""
        desk = Desk.of(trainer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients or any(hasattr(gradient, "to_local") for gradient in gradients):
            return True
        after = global_norm(tensor_norms(gradients))
        tensors = [after] if isinstance(before, float) else [after, before]

        def receive(numbers: list[list[float]]) -> None:
            norm = before if isinstance(before, float) else numbers[1][0]
            self._take(desk, index, step, norm, numbers[0][0])

        desk.meter.put(tensors, receive)
        return True

    def _take(self, desk: Desk, index: int, step: int, before: float, after: float | None) -> None:
        judge = self._judge_of(index)
        judge.take(before, after)
        self._readings[index] = count = self._readings.get(index, 0) + 1
        log_step = self._to_log.pop(step, None)
        if after is not None and log_step is not None and (share := judge.share) is not None:
            several = f"/optimizer_{index}" if self._optimizers > 1 else ""
            desk.meter.log({f"tuning/clipped_share{several}": share}, log_step)
        if count % _JUDGED == 0 and desk.progress.state not in ("learning", "converged"):
            with Sparing(desk.journal, self):
                self._judge(desk, index, step, judge)

    def _judge(self, desk: Desk, index: int, step: int, judge: ClippingJudge) -> None:
        facts = self._facts.get(index)
        if facts is None or (facts.adaptive and desk.progress.state == "unknown"):
            return
        finding = judge.finding(where=facts.where, lr=facts.lr, adaptive=facts.adaptive)
        if finding is not None:
            desk.journal.report(finding, step=step, epoch=facts.epoch)
