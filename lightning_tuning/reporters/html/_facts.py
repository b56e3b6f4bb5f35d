"""What is known of the run itself: when, on what, of which versions."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_tuning.reporters.html._plot import Table
from lightning_tuning.reporters.html._words import NONE, clip, duration, number, plural, when
from lightning_tuning.reporters.run_record import Run

__all__ = ["about", "facts", "metrics", "took", "trials"]

SECTIONS = {"model": "Model", "trainer": "Trainer", "versions": "Versions"}
MOST = 60
"""Facts of a section, and metrics: of more, somebody else wrote them."""


def took(run: Run) -> str:
    """How long the run was, by its own clock or by its last line.

    Example:
        >>> from pathlib import Path
        >>> took(Run(Path(), {"started": "2026-03-01T09:30:00+00:00", "ended": "2026-03-01T09:41:30+00:00"}))
        '11 min 30 s'
    """
    began, ended = when(run.info.get("started")), when(run.info.get("ended"))
    if began is not None and ended is not None and (began.tzinfo is None) == (ended.tzinfo is None):
        return duration((ended - began).total_seconds())
    return duration(max((block.seconds for block in run.blocks if block.seconds is not None), default=None))


def facts(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Facts by section, names and values as text; sections without any are left out."""
    began, ended = when(run.info.get("started")), when(run.info.get("ended"))
    made = sum(block.count for block in run.blocks)
    told = [
        ("folder", str(run.folder)),
        ("status", _text(run.info.get("status"))),
        ("started", began.strftime("%Y-%m-%d %H:%M:%S %Z").strip() if began else _text(run.info.get("started"))),
        ("ended", ended.strftime("%Y-%m-%d %H:%M:%S %Z").strip() if ended else _text(run.info.get("ended"))),
        ("took", took(run)),
        ("recorded", plural(made, "step") if made else ""),
        ("progress", _text(run.info.get("progress"))),
        ("error", _text(run.info.get("error"))),
    ]
    found = {"Run": [(name, value) for name, value in told if value]}
    for key, title in SECTIONS.items():
        section = run.info.get(key)
        if isinstance(section, Mapping) and section:
            found[title] = [(clip(str(name), 80).replace("_", " "), _text(value)) for name, value in section.items()][
                :MOST
            ]
    return found


def about(run: Run) -> list[str]:
    """The few facts that stand beside the verdict: which model, which run, how long, how it ended."""
    model = run.info.get("model")
    kind = model.get("class") if isinstance(model, Mapping) else None
    told = (_text(kind), clip(run.folder.name, 120), took(run), _text(run.info.get("status")))
    return [text for text in told if text]


def metrics(run: Run) -> Table | None:
    """What validation measured, first, best of both ends, and last; ``None`` where there was none."""
    samples = run.samples.get("validation", ())
    names = list(dict.fromkeys(name for sample in samples for name in sample.values))
    rows = []
    for name in names[:MOST]:
        values = [sample.values[name] for sample in samples if name in sample.values]
        usable = [value for value in values if abs(value) < float("inf")]
        least, greatest = (number(min(usable)), number(max(usable))) if usable else (NONE, NONE)
        rows.append([clip(name, 100), number(values[0]), least, greatest, number(values[-1]), f"{len(values):,}"])
    note = f"The first {MOST} of {len(names):,} metrics." if len(names) > MOST else ""
    return Table(["metric", "first", "least", "greatest", "last", "times"], rows, note) if rows else None


def trials(run: Run) -> Table | None:
    """What came of the trials before the run, the failed ones first; ``None`` where there were none.

    Example:
        >>> from pathlib import Path
        >>> from lightning_tuning.findings import Verdict
        >>> trials(Run(Path(), {}, verdicts=[Verdict("loss scaling", "passed", "x1.00", code="LT410")])).rows
        [['loss scaling LT410', 'passed', 'x1.00']]
    """
    told = sorted(run.verdicts, key=lambda verdict: verdict.outcome != "failed")[:MOST]
    rows = [
        [clip(f"{one.name} {one.code}".strip(), 200), clip(one.outcome, 40), clip(one.sentence, 600)] for one in told
    ]
    return Table(["trial", "verdict", "measured"], rows, words=True) if rows else None


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, (int, float)) else clip(str(value), 400)
