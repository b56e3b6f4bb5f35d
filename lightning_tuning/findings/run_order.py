"""What ``lightning-tuning run`` hands to the processes of the script that it starts, through the environment."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["REPORT", "RunOrder"]

REPORT = "report.html"
"""In the folder of a run."""

_VARIABLE = "LIGHTNING_TUNING_RUN"


@dataclasses.dataclass(frozen=True)
class RunOrder:
    """The order to keep a record of every run, and the settings of the command line.

    In the environment, since Lightning starts the other processes of a run by the script's own command line.

    Attributes:
        folder: of the first run; those of the next are named after it. Absolute, for a script may go elsewhere.
        settings: as in the table ``[tool.lightning-tuning]``.

    Example:
        >>> RunOrder("/runs/7", {"ignore": ["LT301"]}).environment()
        {'LIGHTNING_TUNING_RUN': '{"folder": "/runs/7", "settings": {"ignore": ["LT301"]}}'}
    """

    folder: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def report(self) -> str:
        """The report of the first run."""
        return f"{self.folder}/{REPORT}"

    def environment(self) -> dict[str, str]:
        """The variable that says it."""
        return {_VARIABLE: json.dumps(dataclasses.asdict(self))}

    def without_settings(self) -> RunOrder:
        """The record alone."""
        return dataclasses.replace(self, settings={})

    @classmethod
    def here(cls) -> RunOrder | None:
        """That of this process; ``None`` where ``lightning-tuning run`` did not start it.

        Raises:
            ValueError: if somebody else has set the variable to what it never holds.
        """
        text = os.environ.get(_VARIABLE)
        if not text:
            return None
        try:
            order = cls(**json.loads(text))
        except (TypeError, ValueError):
            raise ValueError(f"{_VARIABLE}={text}: is set by `lightning-tuning run`, and only by it.") from None
        return order
