"""A run of a case, and what is found in it."""

from __future__ import annotations

import contextlib
import warnings

import lightning.pytorch as pl
import pytest

from lightning_tuning import Finding, Journal, TuningSuite
from tests.cases.case import Case, Run, cases
from tests.helpers import quiet_trainer
from tests.ranks import on_two_ranks


def findings_of(run: Run) -> list[Finding]:
    """What the recommended set finds in ``run``; Python warnings are those of the user's code, sick on purpose."""
    pl.seed_everything(0, verbose=False)
    module = run.module()
    trainer = quiet_trainer(callbacks=[TuningSuite(), *run.callbacks()], **run.trainer)
    expected = contextlib.nullcontext() if run.ends_with is None else pytest.raises(run.ends_with)
    with warnings.catch_warnings(), expected:
        warnings.simplefilter("ignore")
        trainer.fit(module, **run.fit)
    journal = Journal.of(trainer)
    assert [note for note in journal.notes if " failed (" in note] == []
    return journal.findings


def findings_of_case(case: Case) -> list[Finding]:
    """What its sick run gives, on the first rank where it takes two."""
    return findings_of(case.sick) if case.ranks == 1 else on_two_ranks(_on_rank, str(case))[0]


def _on_rank(rank: int, name: str) -> list[Finding]:
    (case,) = (case for case in cases() if str(case) == name)
    return findings_of(case.sick)
