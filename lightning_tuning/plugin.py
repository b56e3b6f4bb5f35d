"""Attach the suite to an unmodified script: ``LIGHTNING_TUNING=recommended python train.py``, ``lightning-tuning run``.

Lightning calls the functions here, by their entry points, in every ``Trainer()``; whatever they raised would break a
training that never asked for us, and whatever they imported would be paid for by everybody.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["callbacks", "callbacks_of_the_other_package"]

_VARIABLE = "LIGHTNING_TUNING"
_ORDER = "LIGHTNING_TUNING_RUN"  # by `lightning-tuning run`; here by its name, for nothing is imported unasked
_OFF = ("", "0", "off", "false", "no")


def callbacks() -> list[Any]:
    """A suite with the settings that the environment variable ``LIGHTNING_TUNING`` holds; none if it is unset or off.

    The values are told at :meth:`lightning_tuning.findings.settings.Settings.from_variable`. The suite gives way to one
    that the script attaches itself. A setting that is wrong is warned of, and nothing is attached.

    In a script that ``lightning-tuning run`` has started it is attached where the variable is unset as well, and keeps
    a record; where it is off, or wrong, the record is kept without it.
    """
    said = os.environ.get(_VARIABLE, "").strip().lower()
    if not os.environ.get(_ORDER):
        return [] if said in _OFF else _made(_suite)
    return ([] if said in _OFF and said else _made(_suite)) or _made(_record)


def callbacks_of_the_other_package() -> list[Any]:
    """For ``import pytorch_lightning``, whose classes are others than ours: none, and a word on it if some are wanted.

    Lightning's two packages have the same code twice; a callback of one does not know the Trainer of the other.
    """
    if os.environ.get(_ORDER) or os.environ.get(_VARIABLE, "").strip().lower() not in _OFF:
        _warn(
            "this script trains with `pytorch_lightning`, and lightning-tuning works with "
            "`lightning`. Write `import lightning.pytorch as pl`."
        )
    return []


def _made(make: Callable[[], Any]) -> list[Any]:
    try:
        suite = make()
    except Exception as error:  # noqa: BLE001  # it must not break the user's training, whatever it is
        _warn(str(error))
        return []
    suite.gives_way = True
    return [suite]


def _suite() -> Any:
    from lightning_tuning.suite import TuningSuite  # noqa: PLC0415  # torch and all; most processes never get here

    return TuningSuite()


def _record() -> Any:
    from lightning_tuning.findings.run_order import RunOrder  # noqa: PLC0415  # likewise
    from lightning_tuning.suite import TuningSuite  # noqa: PLC0415

    order = RunOrder.here()
    if order is None:
        raise ValueError(f"{_ORDER} is gone.")
    return TuningSuite.record_alone(order)


def _warn(reason: str) -> None:
    said = os.environ.get(_VARIABLE, "")
    asked = f"{_VARIABLE}={said}: " if said else ""
    warnings.warn(
        f"lightning-tuning attaches nothing: {asked}{reason.removeprefix(asked)}", RuntimeWarning, stacklevel=3
    )
