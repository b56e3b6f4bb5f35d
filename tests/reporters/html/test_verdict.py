"""The sentence that stands first."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_tuning.findings import Diagnosis, Finding, Severity
from lightning_tuning.reporters.html._verdict import headline
from lightning_tuning.reporters.run_record import Block, Run

BLOCKS = tuple(Block(step, step, 0, loss=2.0 / (step + 1)) for step in range(4))
BROKEN = Finding("LT701", "non-finite-loss", Severity.ERROR, "the loss is nan", evidence={"cause": "log-of-zero"})
ADVICE = Finding("LT405", "adam-l2", Severity.INFO, "Adam adds it")


@pytest.mark.parametrize(
    ("info", "content", "tone", "title"),
    [
        ({"status": "finished", "progress": "learning"}, {}, "good", "The run learned; nothing found."),
        ({"status": "finished", "progress": "converged"}, {"findings": [ADVICE]}, "good", "converged; 1 info found."),
        ({"status": "finished", "progress": "learning"}, {"findings": [BROKEN]}, "warn", "learned; 1 error found."),
        ({"status": "finished", "progress": "flat"}, {}, "bad", "The run did not learn."),
        ({"status": "finished", "progress": "diverging"}, {}, "bad", "The run diverged."),
        ({"status": "finished"}, {}, "neutral", "whether it learned is not known."),
        ({"status": "finished", "progress": "<b>"}, {}, "neutral", "whether it learned is not known."),
        ({"status": "running"}, {}, "neutral", "still going on, or was killed."),
        ({}, {}, "neutral", "still going on, or was killed."),
        ({"status": "interrupted"}, {}, "neutral", "The run was interrupted."),
        ({"status": "failed", "error": "RuntimeError: CUDA"}, {}, "bad", "The run was ended by an error."),
        ({"status": "failed", "error": "RuntimeError: x"}, {"findings": [BROKEN]}, "bad", "ended by an error."),
        ({"status": "failed", "error": "TuningError: nan"}, {"findings": [BROKEN]}, "bad", "NaN or infinity: LT701"),
        (
            {"status": "finished"},
            {"diagnosis": Diagnosis("the run did not learn (flat)")},
            "bad",
            "did not learn (flat).",
        ),
        ({"status": "finished"}, {"blocks": ()}, "neutral", "No optimizer step was made."),
        ({"status": "finished"}, {"blocks": (), "findings": [ADVICE]}, "neutral", "No optimizer step was made."),
        ({"status": "finished"}, {"blocks": (Block(0, 0, 0, loss=math.nan),)}, "bad", "The loss is not finite"),
    ],
)
def test_how_a_run_went(info: dict[str, Any], content: dict[str, Any], tone: str, title: str) -> None:
    verdict = headline(Run(Path("7"), info, **{"blocks": BLOCKS, **content}))
    assert verdict.tone == tone
    assert title in verdict.title


def test_the_losses_are_said() -> None:
    assert "Training loss 2 → 0.5 over 4 steps." in headline(Run(Path(), {}, blocks=BLOCKS)).lines
    broken = (*BLOCKS, Block(4, 4, 0, loss=math.inf))
    assert any(
        "not finite at 1 of them, the last at step 4" in line for line in headline(Run(Path(), {}, blocks=broken)).lines
    )
    assert headline(Run(Path(), {"status": "finished", "progress": "learning"}, blocks=broken)).tone == "warn"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("healthy", "The run learned; nothing found."),
        ("sick", "ended by NaN or infinity"),
        ("empty", "No optimizer step was made."),
        ("killed", "still going on, or was killed."),
        ("many_findings", "The run learned; 1,200 errors, 1,200 warnings and 600 infos found."),
    ],
)
def test_of_whole_folders(run_of: Callable[[str], Run], name: str, title: str) -> None:
    assert title in headline(run_of(name)).title
