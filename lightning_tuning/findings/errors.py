"""How findings leave the library when they are not printed: as a Python warning or as an exception."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_tuning.findings.finding import Finding

__all__ = ["TuningError", "TuningWarning", "warn_of"]


class TuningWarning(UserWarning):
    """The category of every warning this library gives, so that it can be filtered as one.

    Example:
        >>> import warnings
        >>> warnings.filterwarnings("error", category=TuningWarning)  # findings of a run become exceptions
        >>> warnings.resetwarnings()
    """


class TuningError(RuntimeError):
    """A run was stopped because of a finding.

    Raised by ``on_finding="raise"``, and by guards whose action is to raise.

    Attributes:
        finding: what was found; the whole evidence is in it.
    """

    def __init__(self, message: str, finding: Finding | None = None) -> None:
        super().__init__(message)
        self.finding = finding

    def __reduce__(self) -> tuple[type[TuningError], tuple[str, Finding | None]]:
        # BaseException pickles only ``args``; a spawned rank sends this exception to its parent.
        return type(self), (str(self), self.finding)


def warn_of(finding: Finding, *, displayed: bool) -> None:
    """Give ``finding`` as a Python warning, which is shown unless a reporter has ``displayed`` it to a person."""
    with warnings.catch_warnings():
        if displayed:
            # Appended, so it comes last: any filter of the user (error, always, record) still wins over it.
            warnings.simplefilter("ignore", TuningWarning, append=True)
        warnings.warn(finding.text(), TuningWarning, stacklevel=2)
