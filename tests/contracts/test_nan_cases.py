"""NanLossGuard names line and cause of every number that is not finite, for each way to make one in ``cases/nan``."""

from __future__ import annotations

import dataclasses

import lightning.pytorch as pl
import pytest

from lightning_tuning import Finding, Journal, NanLossGuard, TuningError
from tests.cases.nan import CULPRITS, NAN_CASES, Culprit, NanCase
from tests.helpers import quiet_trainer

IN_BF16 = [dataclasses.replace(case, trainer={"precision": "bf16-mixed"}) for case in NAN_CASES if case.bf16]


def finding_of(module: pl.LightningModule, callbacks: list[pl.Callback], **settings: object) -> Finding:
    """What the guard ends the run of ``module`` with."""
    trainer = quiet_trainer(callbacks=[*callbacks, NanLossGuard()], limit_val_batches=0, **settings)
    with pytest.raises(TuningError) as error:
        trainer.fit(module)
    assert Journal.of(trainer).findings == [error.value.finding]
    return error.value.finding


def blames_the_marked_line(case: NanCase) -> None:
    pl.seed_everything(0, verbose=False)
    finding = finding_of(case.module(), [], **case.trainer)
    text = finding.text()
    assert str(finding.source_line).endswith(f"nan/{case.line}"), text
    assert finding.evidence["cause"] == case.cause, text
    assert finding.code == ("LT702" if case.kind == "backward" else "LT701"), text
    assert case.op in (None, finding.evidence["op"]), text
    assert finding.remedy
    if case.trainer.get("precision") != "bf16-mixed" or not case.bf16:
        assert case.detail in finding.message, text


@pytest.mark.filterwarnings("ignore:(std|var).*degrees of freedom:UserWarning")  # of the very fault
@pytest.mark.parametrize("case", NAN_CASES, ids=str)
def test_the_marked_line_is_blamed(case: NanCase) -> None:
    blames_the_marked_line(case)


@pytest.mark.filterwarnings("ignore:(std|var).*degrees of freedom:UserWarning")
@pytest.mark.parametrize("case", IN_BF16, ids=str)
def test_the_marked_line_is_blamed_under_bf16(case: NanCase) -> None:
    blames_the_marked_line(case)


@pytest.mark.parametrize("culprit", CULPRITS, ids=str)
def test_the_culprit_is_named(culprit: Culprit) -> None:
    pl.seed_everything(0, verbose=False)
    finding = finding_of(culprit.module(), culprit.callbacks(), **culprit.trainer)
    text = finding.text()
    assert (finding.code, finding.evidence["cause"]) == (culprit.code, culprit.cause), text
    assert culprit.where in (None, finding.where), text
    assert [said for said in culprit.said if said not in finding.message] == [], text
    assert culprit.remedy in str(finding.remedy), text
