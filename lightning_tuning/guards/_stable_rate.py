"""Where the learning rate is to blame, or may be: which one would have been stable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.findings import Finding
from lightning_tuning.functional.curvature import CurvatureError
from lightning_tuning.guards._incident import Incident, Response
from lightning_tuning.rules.rate_above_stability import with_stable_rate
from lightning_tuning.runtime import Desk, Sparing
from lightning_tuning.trace import CannotReplay
from lightning_tuning.trace.stability import Stability, mean_stability, of_all_ranks, stability_of

__all__ = ["StableRate"]

_SUSPECTS = frozenset({"learning-rate", "exploding-gradient", "bad-weights"})
"""Causes behind which a learning rate may stand."""

_MEASUREMENTS = 3
"""Of a fit at most; a fourth incident would tell what three did."""


class StableRate(Response):
    """Measures the largest stable learning rate in an incident of which the rate may be the cause.

    At the weights of the incident, which the bad update has not reached; where a loss or its curvature is not finite
    there, on all ranks at the last weights that were looked at and found sound. The ranks measure their own batches
    alone, and the mean counts.
    """

    def __init__(self) -> None:
        self._left = _MEASUREMENTS
        self._sound: dict[str, Tensor] = {}
        self._since = 0
        self._notes: list[str] = []

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a copy on the CPU."""
        self._since = trainer.global_step
        named: list[tuple[str, Any]] = list(pl_module.named_parameters())
        self._sound = {name: p.detach().to("cpu", copy=True) for name, p in named if not is_lazy(p)}

    def amend(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> Finding:
        """Add the stable rate to a finding that may have to blame the rate."""
        finding = incident.finding
        if finding.evidence.get("cause") not in _SUSPECTS or "stable_lr" in finding.evidence or not self._left:
            return finding
        self._left -= 1
        when = ""
        everybody: list[Stability | str] = ["the loss or the weights are not finite"]
        if not incident.step.weights and incident.step.bad_loss is None:
            everybody = of_all_ranks(_measure(trainer, pl_module, incident))
        if any(isinstance(one, str) for one in everybody) and self._sound:
            when = f"at the weights of step {self._since}"
            everybody = of_all_ranks(_measure(trainer, pl_module, incident, weights=self._sound))
        measured = mean_stability(everybody)
        if measured is None or measured.excess is None:
            why = str(everybody[0]) if measured is None else measured.no_bound
            self._notes.append(f"NanLossGuard knows no stable learning rate at step {incident.step.step}: {why}")
            return finding
        amended = with_stable_rate(finding, measured, when=when)
        if amended is None:
            self._notes.append(
                f"NanLossGuard measured the largest stable learning rate of the batch at step {incident.step.step}, "
                f"{measured.stable_lr:.2g}{when and f', {when}'}; the run had {measured.lr:.3g}"
            )
        return amended or finding

    def notes(self) -> list[str]:
        """Measurements that are in no finding."""
        return self._notes

    def end(self, trainer: Trainer) -> None:
        """Let go of the copy."""
        self._sound = {}


def _measure(
    trainer: Trainer, pl_module: LightningModule, incident: Incident, weights: Mapping[str, Tensor] | None = None
) -> Stability | str:
    """What this rank measures, or why it cannot; the others wait for it, whatever it is."""
    start: dict[str, Any] = {"rng": incident.rng, "buffers": incident.buffers, "weights": weights}
    with Sparing(Desk.of(trainer).journal, "NanLossGuard"):
        try:
            return stability_of(trainer, pl_module, incident.batch, incident.batch_idx, **start)
        except (CannotReplay, CurvatureError) as limit:
            return str(limit).rstrip(".")
    return "the measurement failed"
