"""A failure of our own is told, and the user's run goes on."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path
from types import TracebackType

from lightning_tuning.findings import Journal, TuningError, TuningWarning

__all__ = ["RAISE", "Sparing", "SparingLogger", "nothing_more_raised"]

RAISE = "LIGHTNING_TUNING_RAISE"
"""Environment variable: any value lets failures of our own end the run with their traceback. For tests and reports."""


class Sparing:
    """A context for whoever only looks: what goes wrong in it becomes a note of the journal, and is passed over.

    Findings that end a run do so all the same (:class:`TuningError`, a :class:`TuningWarning` that a filter made an
    error), and so does whatever is no ``Exception``, as an interrupt from the keyboard.

    Args:
        journal: takes the note.
        who: was looking: a name, or the function or object itself.

    Attributes:
        failed: the last time went wrong.

    Example:
        >>> with Sparing(Journal(), "DataCheck") as sparing:
        ...     looked_at = ["net.0.weight"][0]
        >>> sparing.failed
        False
    """

    def __init__(self, journal: Journal, who: object) -> None:
        self.failed = False
        self._journal, self._who = journal, who

    def __enter__(self) -> Sparing:  # noqa: PYI034 (Self is not in Python 3.10)
        self.failed = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, TuningError | TuningWarning) or RAISE in os.environ:
            return False
        self.failed = True
        self._note(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}", trace)
        return True

    def _note(self, error: str, trace: TracebackType | None) -> None:
        sentence = (
            f"{_name(self._who)} failed ({error}), which is a fault of lightning-tuning"
            f"{_at(trace)} and not of yours; it may have missed something. {RAISE}=1 shows it whole."
        )
        if sentence not in self._journal.notes:
            self._journal.note(sentence)


class SparingLogger(Sparing):
    """The same for who hands something to a logger of the user's: one note for each kind of logger, whatever it says.

    Example:
        >>> with SparingLogger(Journal(), "CSVLogger") as sparing:
        ...     written = {"tuning/grad_norm": 1.2}
        >>> sparing.failed
        False
    """

    def _note(self, error: str, trace: TracebackType | None) -> None:
        beginning = f"{_name(self._who)} did not take all that lightning-tuning had for it"
        if not any(note.startswith(beginning) for note in self._journal.notes):
            self._journal.note(f"{beginning} ({error}); the training went on.")


def nothing_more_raised() -> contextlib.AbstractContextManager[None]:
    """A context for what is still judged of a run that an error has ended: findings are told and raise nothing."""
    return contextlib.suppress(TuningError, TuningWarning)


def _name(who: object) -> str:
    """The class that a method belongs to, or what the function is called."""
    if isinstance(who, str):
        return who
    owner = getattr(who, "__self__", None)
    if owner is None and not hasattr(who, "__qualname__"):
        owner = who
    return str(who.__qualname__ if owner is None else type(owner).__name__).lstrip("_")  # type: ignore[attr-defined]


def _at(trace: TracebackType | None) -> str:
    """The innermost place of our own in ``trace``."""
    home = Path(__file__).parent.parent
    own = [
        (path, line)
        for frame, line in traceback.walk_tb(trace)
        if home in (path := Path(frame.f_code.co_filename)).parents
    ]
    return f" ({own[-1][0].relative_to(home)}:{own[-1][1]})" if own else ""
