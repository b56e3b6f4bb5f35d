"""Every callback of the library, found by itself, and the ways in which each has to behave."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import lightning_tuning
from lightning_tuning.runtime import TuningCallback

OBSERVER_ROOMS = ("checks", "monitors", "recording")

ARGUMENTS: dict[str, dict[str, object]] = {
    # What a class can't do without; everything else has a default and is tested with it.
    "MomentumSchedule": {"over": 4},  # a share of the run, the default, is refused where the run has no known length
    "DecoupledWeightDecay": {"weight_decay": 0.01},
    "ConvertBatchNorm": {"to": "group"},
    "FreezeGuard": {"modules": "net"},
    "PlateauLR": {"monitor": "val_loss"},
    "TuningReport": {"path": None},  # the page takes a second or two to draw, and is tested with it
    "ScheduleLR": {"warmup": 3, "when_scheduled": "chain"},  # a rate that goes with PlateauLR
}


def callback_classes() -> dict[str, type[TuningCallback]]:
    """Public callbacks of every room but ``runtime``, whose own are not attached by people; found by walking."""
    found: dict[str, type[TuningCallback]] = {}
    for info in pkgutil.walk_packages(lightning_tuning.__path__, "lightning_tuning."):
        for name, value in vars(importlib.import_module(info.name)).items():
            is_callback = inspect.isclass(value) and issubclass(value, TuningCallback) and value is not TuningCallback
            is_private = is_callback and value.__module__.rpartition(".")[2].startswith("_")  # a base of public ones
            if is_callback and not name.startswith("_") and not is_private and ".runtime." not in value.__module__:
                found[name] = value
    return dict(sorted(found.items()))


CALLBACKS = callback_classes()
OBSERVERS = {name: kind for name, kind in CALLBACKS.items() if kind.__module__.split(".")[1] in OBSERVER_ROOMS}


def make(name: str) -> TuningCallback:
    """A fresh instance with default arguments."""
    return CALLBACKS[name](**ARGUMENTS.get(name, {}))


def observers() -> list[TuningCallback]:
    """A fresh instance of every check and monitor."""
    return [make(name) for name in OBSERVERS]


Factory = Callable[[], list[TuningCallback]]

__all__ = ["CALLBACKS", "OBSERVERS", "Factory", "make", "observers"]
