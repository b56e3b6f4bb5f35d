"""A learning rate that falls when a metric stays flat: the configuration of it, for any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.functional._numbers import is_number

__all__ = ["check_plateau_arguments", "plateau_lr_config"]


def plateau_lr_config(
    optimizer: Optimizer,
    monitor: str,
    *,
    mode: str = "min",
    factor: float = 0.5,
    patience: int = 5,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float | Sequence[float] = 0.0,
    eps: float = 1e-8,
    frequency: int = 1,
) -> dict[str, Any]:
    """A ``ReduceLROnPlateau`` on ``optimizer`` as the ``"lr_scheduler"`` entry that Lightning understands.

    Args:
        optimizer: whose rates are lowered, every parameter group by the same factor.
        monitor: name of the logged metric to watch.
        mode: ``"min"`` if smaller is better (default, for losses), ``"max"`` if larger is (accuracy).
        factor: new rate / old rate, in (0, 1). Default .5 where torch has .1: a plateau seen by mistake, in noise, then
            costs half the rate and not nine tenths, and a true one is left after some three cuts all the same.
        patience: readings without improvement that are tolerated; the cut comes with the next one, so ``patience=5``
            cuts on the seventh reading of a metric that stays flat from the first. Default 5: half of torch's 10, at
            half the cut. It must leave early stopping room: ``EarlyStopping(patience=...)`` at least twice as much,
            plus two.
        threshold: least improvement that counts. Default 1e-4 as in torch; below 1 if it is relative.
        threshold_mode: ``"rel"`` (default: a fraction of the best value) or ``"abs"`` (in units of the metric; the one
            to take for metrics below zero, see LT506).
        cooldown: readings after a cut that are not counted. Default 0: ``patience`` starts anew after a cut anyway.
        min_lr: rates are not lowered below it; one number, or one per parameter group. Default 0.
        eps: smallest change of a rate that is carried out. Default 1e-8 as in torch: a rate below twice that (at a
            factor of .5) stays where it is.
        frequency: epochs per reading; ``Trainer(check_val_every_n_epoch=...)`` for a validation metric.

    Returns:
        A dict for ``{"optimizer": optimizer, "lr_scheduler": ...}`` in ``configure_optimizers``.

    Raises:
        ValueError: for an argument outside of what is said above.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> config = plateau_lr_config(optimizer, "val_loss", patience=1)
        >>> for loss in (1.0, 0.9, 0.9, 0.9):  # the best one, then twice no better
        ...     config["scheduler"].step(loss)
        >>> optimizer.param_groups[0]["lr"]
        0.05
        >>> config["monitor"], config["interval"], config["frequency"]
        ('val_loss', 'epoch', 1)
    """
    arguments: dict[str, Any] = {
        "mode": mode,
        "factor": factor,
        "patience": patience,
        "threshold": threshold,
        "threshold_mode": threshold_mode,
        "cooldown": cooldown,
        "min_lr": min_lr,
        "eps": eps,
    }
    check_plateau_arguments(monitor, frequency=frequency, **arguments)
    if isinstance(min_lr, Sequence):
        arguments["min_lr"] = list(min_lr)
        if len(min_lr) != len(optimizer.param_groups):
            raise ValueError(
                f"`min_lr` must be one number, or one for each of {len(optimizer.param_groups)} parameter groups, "
                f"got {min_lr!r}."
            )
    return {
        "scheduler": ReduceLROnPlateau(optimizer, **arguments),
        "monitor": monitor,
        "interval": "epoch",
        "frequency": frequency,
        "strict": True,
        "reduce_on_plateau": True,
    }


def check_plateau_arguments(
    monitor: Any,
    *,
    mode: Any,
    factor: Any,
    patience: Any,
    threshold: Any,
    threshold_mode: Any,
    cooldown: Any,
    min_lr: Any,
    eps: Any,
    frequency: Any = None,
) -> None:
    """Refuse arguments that :func:`plateau_lr_config` cannot use, before there is an optimizer.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"`monitor` must be the name of a logged metric, got {monitor!r}.")
    if mode not in ("min", "max"):
        raise ValueError(f"`mode` must be 'min' or 'max', got {mode!r}.")
    if threshold_mode not in ("rel", "abs"):
        raise ValueError(f"`threshold_mode` must be 'rel' or 'abs', got {threshold_mode!r}.")
    if not is_number(factor) or not 0 < factor < 1:
        raise ValueError(f"`factor` must be between 0 and 1, both excluded, got {factor!r}.")
    for name, count, least in (("patience", patience, 0), ("cooldown", cooldown, 0), ("frequency", frequency, 1)):
        if name == "frequency" and count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {count!r}.")
    rates = list(min_lr) if isinstance(min_lr, Sequence) and not isinstance(min_lr, str) else [min_lr]
    if not rates or not all(is_number(rate) and rate >= 0 for rate in rates):
        raise ValueError(f"`min_lr` must be a finite number of at least 0, or one per parameter group, got {min_lr!r}.")
    for name, value in (("threshold", threshold), ("eps", eps)):
        if not is_number(value) or value < 0:
            raise ValueError(f"`{name}` must be a finite number of at least 0, got {value!r}.")
    if threshold_mode == "rel" and threshold >= 1:  # nothing beats inf * (1 - 1), the first reading neither
        raise ValueError(f"`threshold` must be less than 1 with threshold_mode='rel', got {threshold!r}.")
