"""Every monitor's sick and healthy runs again, trained in the other ways there are, and broken off and resumed.

A monitor of parameters, gradients or losses has to find its sickness there too; where it cannot, or must not (nobody
knows how a run with several optimizers goes), :data:`SILENT` says why, and it is silent. A healthy run stays healthy.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lightning_tuning import CATALOGUE, Finding, Journal, Severity, TuningSuite
from tests.cases import Case, Run, cases
from tests.contracts.ways import WAYS
from tests.helpers import quiet_trainer

DYNAMIC = ("LT302", "LT408", "LT411", "LT508", "LT509", "LT6", "LT8")
CASES = [case for case in cases() if case.code.startswith(DYNAMIC)]

_NOBODY_KNOWS = "how a run goes is not known under manual optimization, nor with several optimizers"
SILENT: dict[tuple[str, str], str] = {
    ("LT802", "manual optimization"): _NOBODY_KNOWS,
    ("LT802", "two optimizers"): _NOBODY_KNOWS,
}
"""By code and way: why nothing is said."""


def found_in(run: Run, path: Path | None = None, *more: pl.Callback, stop_at: int | None = None) -> list[Finding]:
    pl.seed_everything(0, verbose=False)
    module = run.module()
    settings = {**run.trainer, "enable_checkpointing": bool(more)}
    if stop_at is not None:
        settings = {**settings, "max_epochs": -1, "max_steps": stop_at}
    trainer = quiet_trainer(callbacks=[TuningSuite(), *run.callbacks(), *more], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, **{**run.fit, **({} if path is None else {"ckpt_path": path})})
    journal = Journal.of(trainer)
    assert [note for note in journal.notes if " failed (" in note] == []
    return journal.findings


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sickness_is_found(case: Case, way: str) -> None:
    found = found_in(WAYS[way](case.sick))
    codes = {finding.code for finding in found}
    assert (case.code in codes) is ((case.code, way) not in SILENT), [finding.text() for finding in found]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_healthy_twin_is_quiet(case: Case, way: str) -> None:
    found = found_in(WAYS[way](case.healthy))
    assert [f.text() for f in found if f.code == case.code or f.severity >= Severity.WARNING] == []


def test_every_reason_is_of_a_rule_and_a_way() -> None:
    assert {code for code, _ in SILENT} <= {rule.code for rule in CATALOGUE}
    assert {way for _, way in SILENT} <= set(WAYS)
