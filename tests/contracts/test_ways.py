"""Every monitor's sick and healthy runs again, trained in the other ways there are.

A monitor of parameters, gradients or losses has to find its sickness there too; where it cannot, or must not (nobody
knows how a run with several optimizers goes), :data:`SILENT` says why, and it is silent. A healthy run stays healthy.
"""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
import pytest

from lightning_tuning import Finding, Journal, Severity, TuningSuite
from tests.cases import Case, Run, cases
from tests.contracts.ways import WAYS
from tests.helpers import quiet_trainer

DYNAMIC = ("LT302", "LT408", "LT411", "LT508", "LT509", "LT6", "LT8")
CASES = [case for case in cases() if case.code.startswith(DYNAMIC)]

MANUAL, TWO, COMPILED = "manual optimization", "two optimizers", "compiled"

UNKNOWN = "nobody knows how a run goes under manual optimization or with several optimizers, so it is not judged"
BLIND = "blind here: "

SILENT: dict[tuple[str, str], str] = {
    ("LT508", MANUAL): UNKNOWN,
    **{(code, way): UNKNOWN for code in ("LT509", "LT602", "LT605") for way in (MANUAL, TWO)},
    **{(f"LT80{number}", way): UNKNOWN for number in range(1, 8) for way in (MANUAL, TWO)},
    ("LT302", MANUAL): "its trial needs the loss that training_step returns",
    ("LT302", TWO): "its trial needs the loss that training_step returns",
    ("LT411", MANUAL): "which of the losses counts is not known under manual optimization",
    ("LT411", TWO): "which of the losses counts is not known with several optimizers",
    (
        "LT603 zeros",
        TWO,
    ): "the first optimizer holds all the weights: none of them trains, so none stands out",
    ("LT609", TWO): "a discriminator may be as sure as it likes",
    ("LT611", MANUAL): "the trace comes after the step, and the scores are judged at fresh weights only",
    ("LT611", TWO): "the trace comes after the step, and the scores are judged at fresh weights only",
    ("LT408 cut too deep", "accumulated gradients"): "in a run of twice the epochs LT504 has said so before",
    ("LT802", "bfloat16"): "the loss swings there instead of rising: LT803 and LT807 tell",
    ("LT608", COMPILED): BLIND + "activations are not looked at where looking would change the numbers; LT801 tells",
    ("LT609", COMPILED): BLIND + "activations are not looked at where looking would change the numbers",
}
"""By code, or case, and way: why nothing is said. Who is blind has to say so in a note."""

ELSEWHERE: dict[tuple[str, str], str] = {
    ("LT408 at the top of a cycle", TWO): "a schedule is bound to its one optimizer",
    ("LT408 cut too deep", TWO): "a schedule is bound to its one optimizer",
    ("LT302", "accumulated gradients"): "in twice the epochs its net gets used to the shift, or not, by the processor",
    ("LT508", "accumulated gradients"): "its twin's schedule is made for the case's own length",
    ("LT803", "accumulated gradients"): "two batches together do not pull to and fro",
    ("LT508", TWO): "a schedule is bound to its one optimizer",
    ("LT601", TWO): "a schedule is bound to its one optimizer",
    ("LT802", TWO): "a schedule is bound to its one optimizer",
    ("LT806", TWO): "a schedule is bound to its one optimizer",
    ("LT807 rate", TWO): "the case raises the rate of its one optimizer",
    ("LT804", "accumulated gradients"): "over twice the epochs its twin over-fits as well",
    **{("LT606", way): "Lightning clips under automatic optimization only" for way in (MANUAL, TWO)},
    **{("LT607", way): "the case is one of who calls zero_grad, and the way calls it" for way in (MANUAL, TWO)},
    ("LT607 manual optimization", "accumulated gradients"): "Lightning accumulates under automatic optimization only",
    ("LT603 whole module", COMPILED): "a compiled Sequential cannot be indexed, as its forward does",
    ("LT801 cut off", COMPILED): "a compiled Sequential cannot be indexed, as its forward does",
}
"""By code, or case, and way: why there is no such run."""


def reason(table: dict[tuple[str, str], str], case: Case, way: str) -> str:
    return table.get((str(case), way)) or table.get((case.code, way), "")


PAIRS = [
    pytest.param(case, way, id=f"{case}, {way}") for case in CASES for way in WAYS if not reason(ELSEWHERE, case, way)
]


def found_in(run: Run) -> tuple[list[Finding], list[str]]:
    """Findings and notes; of the user's own checks nothing is raised."""
    pl.seed_everything(0, verbose=False)
    module = run.module()
    trainer = quiet_trainer(callbacks=[TuningSuite(), *run.callbacks()], **run.trainer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, **run.fit)
    journal = Journal.of(trainer)
    assert [note for note in journal.notes if " failed (" in note] == []
    return journal.findings, journal.notes


@pytest.mark.parametrize(("case", "way"), PAIRS)
def test_the_sickness_is_found(case: Case, way: str) -> None:
    found, notes = found_in(WAYS[way](case.sick))
    texts = [finding.text() for finding in found]
    why_silent = reason(SILENT, case, way)
    assert (case.code in {finding.code for finding in found}) is not bool(why_silent), texts
    if why_silent.startswith(BLIND):
        assert any(note.startswith(BLIND) for note in notes), notes


@pytest.mark.parametrize(("case", "way"), PAIRS)
def test_the_healthy_twin_is_quiet(case: Case, way: str) -> None:
    found, _ = found_in(WAYS[way](case.healthy))
    assert [f.text() for f in found if f.code == case.code or f.severity >= Severity.WARNING] == []


def test_the_tables_name_cases_and_ways_that_there_are() -> None:
    known = {case.code for case in CASES} | {str(case) for case in CASES}
    assert {name for table in (SILENT, ELSEWHERE) for name, _ in table} <= known
    assert {way for table in (SILENT, ELSEWHERE) for _, way in table} <= set(WAYS)
