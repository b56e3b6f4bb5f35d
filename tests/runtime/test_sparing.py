"""A failure of our own never ends the user's run: it is said once, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from lightning_tuning import Finding, Journal, Rule, Severity, TuningError, TuningSuite, TuningWarning
from lightning_tuning.runtime import Check, Desk, FirstStep, Sparing
from lightning_tuning.runtime.sparing import RAISE
from lightning_tuning.trace import Op
from tests.helpers import Mlp, quiet_trainer

RULE = Rule("LT995", "seen", Severity.WARNING, "fact", why="It is.", remedy="None.", source="A test.")


@pytest.fixture
def _as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RAISE)


class Clumsy(Check):
    """Fails wherever it can."""

    names = ("linear",)

    def __init__(self) -> None:
        self.calls: list[str] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for hook in ("train_start", "train_batch_start", "train_batch_end", "validation_epoch_end"):
            Desk.of(trainer).watch(hook, self._fail)

    def probes(self) -> Sequence[Any]:
        return [ClumsyProbe()]

    def look(self, step: FirstStep) -> Iterable[Finding]:
        self.calls.append(f"look, blind: {step.graph.blind}")
        raise IndexError("first line\nsecond line")

    def _fail(self, *_: Any) -> None:
        self.calls.append("watch")
        raise KeyError("nothing there")


class ClumsyProbe:
    names = ("linear",)

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        raise ZeroDivisionError("in a probe")


class Late(Check):
    """Comes after it."""

    def __init__(self) -> None:
        self.ops: list[str] = []

    def look(self, step: FirstStep) -> Iterable[Finding]:
        self.ops = [op.name for op in step.graph.ops]
        return ()


@pytest.mark.usefixtures("_as_for_users")
def test_the_run_goes_on_and_is_the_same() -> None:
    bare, model = Mlp(), Mlp()
    quiet_trainer(max_epochs=2).fit(bare)
    clumsy, late = Clumsy(), Late()
    trainer = quiet_trainer(callbacks=[clumsy, late], max_epochs=2)
    trainer.fit(model)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters(), strict=True))
    assert late.ops[:6] == ["linear", "relu", "linear", "relu", "linear", "cross_entropy"]
    blind = "ClumsyProbe failed (ZeroDivisionError: in a probe) at linear."
    assert sorted(clumsy.calls) == [f"look, blind: ['{blind}']", *["watch"] * 4]  # each once, then let go
    notes = Journal.of(trainer).notes
    assert [note.partition(",")[0] for note in notes if "ClumsyProbe" not in note] == [
        "Clumsy failed (KeyError: 'nothing there')",
        "Clumsy failed (IndexError: first line)",
    ]
    assert [blind in note for note in notes] == [False, True, False]


def test_in_tests_it_is_seen() -> None:
    with pytest.raises(KeyError, match="nothing there"):
        quiet_trainer(callbacks=[Clumsy()]).fit(Mlp())


@pytest.mark.usefixtures("_as_for_users")
@pytest.mark.parametrize("error", [TuningError("enough"), TuningWarning("an error by a filter"), KeyboardInterrupt()])
def test_what_is_meant_to_end_the_run_does(error: BaseException) -> None:
    with pytest.raises(type(error)), Sparing(Journal(), "DataCheck"):
        raise error


@pytest.mark.usefixtures("_as_for_users")
def test_findings_raise_from_looks_and_watchers() -> None:
    class Strict(Late):
        def look(self, step: FirstStep) -> Iterable[Finding]:
            return [RULE.finding("seen", evidence={"ops": 1})]

    with pytest.raises(TuningError, match="LT995"):
        quiet_trainer(callbacks=[TuningSuite(on_finding="raise"), Strict()]).fit(Mlp())
    with pytest.raises(TuningWarning, match="LT995"):  # pytest makes warnings errors, as -W error does
        quiet_trainer(callbacks=[Strict()]).fit(Mlp())


@pytest.mark.usefixtures("_as_for_users")
def test_one_failure_is_said_once_with_its_place_in_our_code() -> None:
    journal = Journal()
    for _ in range(2):
        with Sparing(journal, Clumsy()) as sparing:
            Journal(select=["LT999"])
        assert sparing.failed
    (note,) = journal.notes
    assert note.startswith("Clumsy failed (ValueError: ")
    assert "lightning-tuning (findings/selection.py:" in note
    assert f"{RAISE}=1" in note
