"""What is known of a run itself: versions, model, trainer, and the learning rates that its schedule will give."""

from __future__ import annotations

import platform
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_tuning.rules._optimizers import elements, named_groups
from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules._schedule_copy import CannotCopyError
from lightning_tuning.rules._schedule_curve import Curve
from lightning_tuning.runtime.run_length import horizon_of, is_trial

__all__ = ["model_facts", "schedule_facts", "trainer_facts", "versions"]

_PACKAGES = ("lightning-tuning", "torch", "lightning", "torchmetrics", "numpy")
_POINTS = 200
"""Steps at which simulated rates are written down."""


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run's numbers hang on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_facts(pl_module: LightningModule) -> dict[str, Any]:
    """Its class, and how many numbers it has, and trains; lazy ones that are not built yet are none."""
    sizes = [(elements(p), p.requires_grad) for p in pl_module.parameters()]
    kind = type(pl_module)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "parameters": sum(size for size, _ in sizes),
        "trained": sum(size for size, is_trained in sizes if is_trained),
    }


def trainer_facts(trainer: Trainer) -> dict[str, Any]:
    """How it trains, and how far it has come."""
    return {
        "precision": str(trainer.precision),
        "accelerator": trainer.strategy.root_device.type,
        "devices": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(getattr(trainer, "gradient_clip_algorithm", None) or "norm").rpartition(".")[2],
        "optimizers": ", ".join(type(getattr(o, "optimizer", o)).__name__ for o in trainer.optimizers),
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
    }


def schedule_facts(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any] | None:
    """The learning rates of each parameter group over the run, by :class:`Plan`, which :class:`ScheduleCheck` judges.

    Returns:
        ``steps``, at most 200 of them, and ``lr``: for each group the rates at them, as far as they are known. One that
        stays the same is not repeated, but at the end. ``None`` where they are not known:
        manual optimization, a run without a known length, a trial, weight averaging that takes the schedule over, a
        schedule that waits for a metric, has been stepped before, cannot be copied, or is stepped by the module itself.
    """
    horizon = horizon_of(trainer)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    averages = any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks)
    if not pl_module.automatic_optimization or not horizon.steps or averages or is_trial(trainer):
        return None
    configs: list[Any] = list(trainer.lr_scheduler_configs)
    if (configs and is_overridden("lr_scheduler_step", pl_module)) or trainer.global_step:
        return None
    by_optimizer = Counter(id(config.scheduler.optimizer) for config in configs)
    if any(count > 1 for count in by_optimizer.values()):
        return None  # they work on one another's rates
    steps = _spread(horizon.steps)
    rates: dict[str, list[float]] = {}
    for index, wrapper in enumerate(trainer.optimizers):
        optimizer = getattr(wrapper, "optimizer", wrapper)
        names = [name for name, _ in named_groups(optimizer, index, several=len(trainer.optimizers) > 1)]
        config = next((config for config in configs if config.scheduler.optimizer is optimizer), None)
        if config is None:
            known = [[rate] * len(steps) for rate in _present(optimizer)]
        elif not isinstance(config.scheduler, LRScheduler) or isinstance(config.scheduler, ReduceLROnPlateau):
            known = []
        else:
            plan = Plan(config.scheduler, "", config.interval, config.frequency, horizon)
            known = _planned(plan, steps)
        rates |= dict(zip(names, known, strict=False))
    kept = [
        i
        for i in range(len(steps))
        if i in (0, len(steps) - 1) or any(r[i : i + 1] != r[i - 1 : i] for r in rates.values())
    ]
    lr = {name: [known[i] for i in kept if i < len(known)] for name, known in rates.items()}
    return {"steps": [steps[i] for i in kept], "lr": lr} if rates else None


def _spread(length: int) -> list[int]:
    """0 to ``length``, at most :data:`_POINTS` of it."""
    if length < _POINTS:
        return list(range(length + 1))
    return sorted({round(i * length / (_POINTS - 1)) for i in range(_POINTS)})


def _present(optimizer: Any) -> list[float]:
    """The rates as they are; none where one is a tensor, which may be on the device."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return [float(rate) for rate in rates] if all(isinstance(rate, int | float) for rate in rates) else []


def _planned(plan: Plan, steps: Sequence[int]) -> list[list[float]]:
    """By group the rate at each of ``steps``; none where it is not known."""
    scheduler = plan.scheduler
    if getattr(scheduler, "last_epoch", 0) > 0 or not plan.ticks or not plan.horizon.steps:
        return []
    per_epoch = plan.horizon.steps_per_epoch
    if plan.interval == "epoch" and per_epoch:
        ticks = [step // (per_epoch * plan.frequency) for step in steps]
    else:
        ticks = [step * plan.ticks // plan.horizon.steps for step in steps]
    try:
        curve = plan.curve
    except CannotCopyError:
        return []
    found = [_at(curve, tick) for tick in ticks if tick <= curve.ticks[-1]]
    return [list(group) for group in zip(*found, strict=True)]


def _at(curve: Curve, tick: int) -> Sequence[float]:
    return curve.rates[bisect_right(curve.ticks, tick) - 1]
