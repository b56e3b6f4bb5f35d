"""LT601: do the gradients run away?"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from lightning_tuning.findings import Journal
from lightning_tuning.measure import Meter, Reading, plain_name
from lightning_tuning.rules.exploding_gradient import ExplosionJudge
from lightning_tuning.runtime import Desk, TuningCallback

__all__ = ["GradientExplosionMonitor"]


@dataclasses.dataclass(frozen=True)
class _Order:
    """The module's order of the parameters that an optimizer may hold in any other (head first, in fine-tuning)."""

    given: tuple[str, ...]
    order: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[int, ...]

    @property
    def is_given(self) -> bool:
        """The optimizer holds them in the module's order already, as it nearly always does."""
        return self.names is self.given

    @classmethod
    def of(cls, given: tuple[str, ...], positions: dict[str, tuple[int, bool]]) -> _Order:
        """``positions``: of each name its place in the module, and whether it is a weight of two or more dimensions."""
        last = len(positions), False
        order = tuple(sorted(range(len(given)), key=lambda i: positions.get(given[i], last)[0]))
        names = given if order == tuple(range(len(given))) else tuple(given[i] for i in order)
        weights = tuple(i for i, name in enumerate(names) if positions.get(name, last)[1])
        return cls(given, order, names, weights)


class GradientExplosionMonitor(TuningCallback):
    """Watches the gradient norms before clipping, and says when they run away from what is usual in this run (LT601).

    Why: an exploding gradient undoes in one update what hundreds had learned; where it starts and what the usual norm
    is tell where and at what value to clip. Norms are judged against the run's own history, never against a fixed
    bound, and become a warning only when they persist while the run does not learn (else an info). Changes nothing and
    never waits for the
    device: norms land some steps later.

    Logs ``tuning/grad_norm`` (global L2 norm: reduced over ranks, unscaled, unclipped; the unit of the loss per unit of
    the parameters) through the trainer's loggers every ``log_every_n_steps``; with several optimizers
    ``tuning/grad_norm/optimizer_0`` and so on.

    Args:
        window: optimizer steps in the rolling median; 200 by default: long enough to outlast a spike, short enough to
            follow the norms down as the run learns.
        ratio: norm over median that counts as an explosion; 10 by default (a healthy MLP's largest norm was 10.8 times
            its median over a whole run, in its first steps, which no rolling median sees).
        z: deviations above the running mean that make an outlier; 2.5 by default (ZClip); five outliers in twenty steps
            fire.
        spread: first weight's over last weight's gradient that fires; 70 by default (AUTOTRAINER). Not judged under
            FSDP1, whose flat pieces do not tell weights from biases.

    Raises:
        ValueError: if ``window`` < 20, ``ratio`` <= 1, ``z`` <= 0 or ``spread`` <= 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientExplosionMonitor()], logger=False, accelerator="cpu")

    Source: Pascanu et al. 2013; Kumar et al. 2025 (ZClip); Zhang et al. 2021 (AUTOTRAINER).
    """

    thresholds = (("LT601", "window"), ("LT601", "ratio"), ("LT601", "z"), ("LT601", "spread"))

    def __init__(self, window: int = 200, ratio: float = 10.0, z: float = 2.5, spread: float = 70.0) -> None:
        for name, value, least, strict in (
            ("window", window, 20, False),
            ("ratio", ratio, 1, True),
            ("z", z, 0, True),
            ("spread", spread, 1, True),
        ):
            if type(value) not in (int, float) or not (value > least or (value == least and not strict)):
                raise ValueError(f"`{name}` must be {'above' if strict else 'at least'} {least}, got {value!r}.")
        self._settings = {"window": window, "ratio": ratio, "z": z, "spread": spread}
        self._judges: dict[int, ExplosionJudge] = {}
        self._orders: dict[int, _Order] = {}
        self._positions: dict[str, tuple[int, bool]] = {}
        self._optimizers = 1
        self._recurrent = False
        self._scaled = False
        self._horizon: int | None = None
        self._meter: Meter | None = None

    def suggested_clip(self, optimizer: int = 0) -> float | None:
        """The 90th percentile of that optimizer's usual norms, at most 3 medians; ``None`` while too few were seen.

        Source: Google's tuning playbook clips at the 90th percentile of the gradient norms.
        """
        if self._meter is not None:
            self._meter.hand_on()
        judge = self._judges.get(optimizer)
        return None if judge is None else judge.suggested_clip()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Subscribe to the meter; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._judges = {}
        self._orders = {}
        desk = Desk.of(trainer)
        self._meter = desk.meter
        desk.watch_loss()
        desk.meter.subscribe(functools.partial(self._judge, desk.journal))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn what kind of net it is."""
        named = enumerate(pl_module.named_parameters())
        self._positions = {plain_name(name): (i, p.requires_grad and p.ndim >= 2) for i, (name, p) in named}
        self._optimizers = max(1, len(trainer.optimizers))
        self._recurrent = any(isinstance(m, nn.RNNBase) for m in pl_module.modules())
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        steps = trainer.estimated_stepping_batches
        self._horizon = int(steps) if 0 < steps < float("inf") else None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Have the norms measured; they are judged when they have landed."""
        meter = self._meter or Desk.of(trainer).meter  # finding it anew costs 10 us in each step
        meter.gradient_norms(optimizer, self)

    def tuning_state(self) -> dict[str, Any]:
        """What is usual in this run."""
        return {"judges": {index: judge.state_dict() for index, judge in self._judges.items()}}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        for index, judge in state["judges"].items():
            self._judge_of(index).load_state_dict(judge)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_meter": None}  # it is of this process

    def _judge_of(self, optimizer: int) -> ExplosionJudge:
        if optimizer not in self._judges:
            self._judges[optimizer] = ExplosionJudge(**self._settings)  # type: ignore[arg-type]
        return self._judges[optimizer]

    def _judge(self, journal: Journal, reading: Reading) -> None:
        if reading.optimizer is None or reading.grad_norm is None:
            return
        if self._scaled and not reading.grad_norm < float("inf"):
            return  # the GradScaler's own search for its scale
        known = self._orders.get(reading.optimizer)
        if known is None or known.given != reading.names:
            self._orders[reading.optimizer] = known = _Order.of(reading.names, self._positions)
        finding = self._judge_of(reading.optimizer).judge(
            reading.step // self._optimizers,
            reading.grad_norm,
            reading.grad_norms if known.is_given else [reading.grad_norms[i] for i in known.order],
            known.names,
            weights=known.weights,
            recurrent=self._recurrent,
            horizon=self._horizon,
        )
        if finding is not None:
            if finding.step is not None:
                finding = dataclasses.replace(finding, step=finding.step * self._optimizers)
            journal.report(finding, step=reading.step, epoch=reading.epoch)
