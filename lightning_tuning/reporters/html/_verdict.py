"""How the run went, in one sentence that stands first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.reporters.html._words import clip, number, plural, span
from lightning_tuning.reporters.run_record import Run

__all__ = ["Headline", "headline"]

Tone = Literal["bad", "warn", "good", "neutral"]
PROGRESS: dict[str, tuple[Tone, str]] = {
    "learning": ("good", "The run learned."),
    "converged": ("good", "The run converged."),
    "flat": ("bad", "The run did not learn."),
    "diverging": ("bad", "The run diverged."),
}


@dataclasses.dataclass(frozen=True)
class Headline:
    """The verdict.

    Attributes:
        tone: its colour, and the word that stands for it.
        title: the verdict in a sentence.
        lines: what else is known of how it went, a sentence each.
    """

    tone: Tone
    title: str
    lines: Sequence[str] = ()


def headline(run: Run) -> Headline:
    """The verdict of a run, from how it ended, its diagnosis and its findings.

    Example:
        >>> from pathlib import Path
        >>> headline(Run(Path("7"), {"status": "finished", "progress": "flat"})).title
        'No optimizer step was made.'
    """
    status = str(run.info.get("status", "running"))
    tone, title = _title(run, status)
    counts = _counts(run.findings)
    if tone == "good":
        title = f"{title.removesuffix('.')}; {counts or 'nothing'} found."
    lines = [_end(run, status), _loss(run)]
    worst = max((found.severity for found in run.findings), default=Severity.INFO)
    if tone in {"good", "neutral"} and (worst > Severity.INFO or any(_is_off(block.loss) for block in run.blocks)):
        tone = "warn"
    return Headline(tone, title, [line for line in lines if line])


def _title(run: Run, status: str) -> tuple[Tone, str]:
    if status == "failed":
        broken = [found for found in run.findings if found.evidence.get("cause") in CAUSES]
        if broken and "Tuning" in str(run.info.get("error") or "Tuning"):  # the error of a guard, or none known
            return "bad", f"The run was ended by NaN or infinity: {broken[0].code} {clip(broken[0].name, 80)}."
        return "bad", "The run was ended by an error."
    if run.diagnosis is not None:
        return "bad", _sentence(run.diagnosis.outcome)
    if not run.blocks:
        return "neutral", "No optimizer step was made."
    if all(_is_off(block.loss) for block in run.blocks[-3:]):
        return "bad", "The loss is not finite at the end of what was recorded."
    if status == "running":
        return "neutral", "The run is still going on, or was killed."
    if status == "interrupted":
        return "neutral", "The run was interrupted."
    return PROGRESS.get(str(run.info.get("progress")), ("neutral", "The run ended; whether it learned is not known."))


def _end(run: Run, status: str) -> str:
    last = max((block.last_step for block in run.blocks), default=None)
    if status == "failed" and run.info.get("error"):
        return clip(f"{run.info['error']}", 400)
    if status == "running" and last is not None:
        return f"Its last record is of step {last:,}, and nothing says that it ended."
    if status == "failed" and run.diagnosis is not None:
        return _sentence(run.diagnosis.outcome)
    if status == "interrupted" and last is not None:
        return f"Somebody ended it at step {last:,}."
    return ""


def _loss(run: Run) -> str:
    measured = [block for block in run.blocks if block.loss is not None]
    blocks = [block for block in measured if block.optimizer == measured[0].optimizer]
    usable = [(block.step, block.loss) for block in blocks if not _is_off(block.loss)]
    if not usable:
        return "No training loss was finite." if blocks else ""
    (first, before), (last, after) = usable[0], usable[-1]
    if first == last:
        told = f"Training loss {number(before)} at {span(first)}"
    else:
        told = (
            f"Training loss {number(before)} → {number(after)} over {plural(sum(b.count for b in run.blocks), 'step')}"
        )
    off = [block for block in run.blocks if _is_off(block.loss)]
    if off:
        told += f"; not finite at {sum(block.count for block in off):,} of them, the last at {span(off[-1].last_step)}"
    return f"{told}."


def _is_off(loss: float | None) -> bool:
    return loss is not None and not math.isfinite(loss)


def _counts(findings: Sequence[Finding]) -> str:
    """``"2 errors and 1 info"``; empty for none."""
    counts = {severity: sum(found.severity is severity for found in findings) for severity in reversed(Severity)}
    words = [plural(count, str(severity)) for severity, count in counts.items() if count]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _sentence(text: str) -> str:
    text = clip(text.strip(), 400) or "The run went wrong"
    return f"{text[0].upper()}{text[1:]}".rstrip(".") + "."
