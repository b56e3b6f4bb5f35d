"""Attach the suite to an unmodified script: ``LIGHTNING_TUNING=recommended python train.py``.

Lightning calls the functions here, by their entry points, in every ``Trainer()``; whatever they raised would break a
training that never asked for us, and whatever they imported would be paid for by everybody.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

__all__ = ["callbacks", "callbacks_of_the_other_package"]

_VARIABLE = "LIGHTNING_TUNING"
_OFF = ("", "0", "off", "false", "no")


def callbacks() -> list[Any]:
    """A suite with the settings that the environment variable ``LIGHTNING_TUNING`` holds; none if it is unset or off.

    The values are told at :meth:`lightning_tuning.findings.settings.Settings.from_variable`. The suite gives way to one
    that the script attaches itself. A setting that is wrong is warned of, and nothing is attached.
    """
    if os.environ.get(_VARIABLE, "").strip().lower() in _OFF:
        return []
    try:
        from lightning_tuning.suite import TuningSuite  # noqa: PLC0415  # torch and all; most processes never get here

        suite = TuningSuite()
        suite.gives_way = True
    except Exception as error:  # noqa: BLE001  # it must not break the user's training, whatever it is
        _warn(str(error))
        return []
    return [suite]


def callbacks_of_the_other_package() -> list[Any]:
    """For ``import pytorch_lightning``, whose classes are others than ours: none, and a word on it if some are wanted.

    Lightning's two packages have the same code twice; a callback of one does not know the Trainer of the other.
    """
    if os.environ.get(_VARIABLE, "").strip().lower() not in _OFF:
        _warn(
            "this script trains with `pytorch_lightning`, and lightning-tuning works with "
            "`lightning`. Write `import lightning.pytorch as pl`."
        )
    return []


def _warn(reason: str) -> None:
    asked = f"{_VARIABLE}={os.environ.get(_VARIABLE, '')}: "
    warnings.warn(
        f"lightning-tuning attaches nothing: {asked}{reason.removeprefix(asked)}", RuntimeWarning, stacklevel=2
    )
