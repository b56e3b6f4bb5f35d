"""Architectures that others wrote give no warning on real training steps."""

from __future__ import annotations

import logging

import lightning.pytorch as pl
import pytest

from lightning_tuning import Journal, Severity, TuningSuite
from tests.helpers import quiet_trainer

pytest.importorskip("transformers", reason="an extra of the developers'")

from tests.quiet.third_party import EPOCHS, NETS, ThirdParty


@pytest.fixture(autouse=True)
def _calm_transformers() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.mark.parametrize("name", NETS)
def test_no_warning(name: str) -> None:
    pl.seed_everything(0, verbose=False)
    module = ThirdParty(name)
    trainer = quiet_trainer(callbacks=[TuningSuite()], max_epochs=EPOCHS.get(name, 6))
    trainer.fit(module)
    assert sum(module.losses[-8:]) < 0.95 * sum(module.losses[:8]), "it does not learn"
    journal = Journal.of(trainer)
    assert [finding.text() for finding in journal.findings if finding.severity >= Severity.WARNING] == []
    assert len(journal.findings) <= 3
    assert journal.notes == []
