from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_tuning import (
    Finding,
    Journal,
    NanLossGuard,
    TuningError,
    TuningReport,
    TuningSuite,
    TuningWarning,
)
from lightning_tuning.recommended import RECOMMENDED as MEMBERS
from lightning_tuning.recording import page
from lightning_tuning.reporters.run_folder import read_run
from tests.helpers import MODEL_KINDS, Mlp, TinyModule, quiet_trainer

RECOMMENDED = [kind for kind, _ in MEMBERS]


class BadBatch(Mlp):
    """The fourth batch has a NaN in it."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if batch_idx == 3:
            x = x.clone()
            x[5, 2] = float("nan")
        return super().training_step((x, y), batch_idx)


def finite(model: pl.LightningModule) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def test_only_hooks_of_members_are_forwarded() -> None:
    suite = TuningSuite()
    quiet_trainer(callbacks=[suite]).fit(Mlp())
    forwarded = {name for name, hook in vars(suite).items() if name.startswith("on_") and hook is not None}
    wanted = {
        name
        for name in vars(Callback)
        if name.startswith("on_") and any(getattr(type(m), name) is not getattr(Callback, name) for m in suite.members)
    }
    own = {"on_save_checkpoint", "on_load_checkpoint", "on_exception"}  # the suite's, with something of its own to do
    assert forwarded == wanted - own
    assert "on_validation_batch_start" not in forwarded


@pytest.mark.parametrize("first", [True, False], ids=["suite first", "suite last"])
def test_a_users_own_instance_replaces_the_member(first: bool) -> None:
    suite, own = TuningSuite(), NanLossGuard(action="skip")
    callbacks: list[pl.Callback] = [suite, own] if first else [own, suite]
    model = BadBatch()
    with pytest.warns(TuningWarning, match="LT701"):
        quiet_trainer(callbacks=callbacks).fit(model)
    assert finite(model)
    assert own.skipped == 1
    assert [type(member) for member in suite.members] == [kind for kind in RECOMMENDED if kind is not NanLossGuard]
    assert [f.code for f in suite.findings] == ["LT701"]


def test_the_suites_own_guard_raises_before_the_update() -> None:
    suite, model = TuningSuite(), BadBatch()
    with pytest.raises(TuningError, match="LT701"):
        quiet_trainer(callbacks=[suite]).fit(model)
    assert finite(model)
    assert [f.code for f in suite.findings] == ["LT701"]


def test_a_replaced_member_is_back_on_another_trainer() -> None:
    suite = TuningSuite()
    quiet_trainer(callbacks=[suite, NanLossGuard()]).fit(Mlp())
    assert len(suite.members) == len(RECOMMENDED) - 1
    quiet_trainer(callbacks=[suite]).fit(Mlp())
    assert len(suite.members) == len(RECOMMENDED)


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_healthy_runs_have_no_findings(kind: type[TinyModule]) -> None:
    suite = TuningSuite(on_finding="raise")
    quiet_trainer(callbacks=[suite], max_epochs=4).fit(kind(batches=20))
    assert suite.findings == []


def test_findings_are_readable_during_fit_and_json_afterwards() -> None:
    suite = TuningSuite()
    seen: list[list[Finding]] = []

    class Look(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(suite.findings)

    trainer = quiet_trainer(callbacks=[NanLossGuard(action="skip"), suite, Look()])
    with pytest.warns(TuningWarning):
        trainer.fit(BadBatch())
    assert [len(findings) for findings in seen] == [0, 0, 0, 1, 1, 1, 1, 1]
    (finding,) = suite.findings
    assert finding == Journal.of(trainer).findings[0]
    as_dict = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
    assert {
        "code",
        "name",
        "severity",
        "step",
        "epoch",
        "where",
        "source_line",
        "message",
        "evidence",
        "remedy",
        "count",
    } <= set(as_dict)
    assert (as_dict["code"], as_dict["severity"], as_dict["step"], as_dict["epoch"]) == ("LT701", "error", 3, 0)


def test_select_and_ignore_reach_the_journal() -> None:
    suite = TuningSuite(ignore=["LT7"])
    quiet_trainer(callbacks=[suite, NanLossGuard(action="skip")]).fit(BadBatch())
    assert suite.findings == []


def test_raise_raises_on_a_warning_too() -> None:
    suite = TuningSuite(on_finding="raise")
    with pytest.raises(TuningError, match="LT701"):
        quiet_trainer(callbacks=[suite, NanLossGuard(action="skip")]).fit(BadBatch())


@pytest.mark.parametrize("fails", [False, True])
def test_its_settings_end_with_its_run(fails: bool) -> None:
    trainer = quiet_trainer(callbacks=[suite := TuningSuite(ignore=["LT7"])])
    if fails:
        with pytest.raises(TuningError):  # ignored or not, the guard's action is to raise
            trainer.fit(BadBatch())
    else:
        trainer.fit(Mlp())
    trainer.callbacks.remove(suite)
    trainer.callbacks.append(NanLossGuard(action="skip"))
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(TuningWarning, match="LT701"):
        trainer.fit(BadBatch())


def test_two_equal_suites_act_as_one() -> None:
    suites = [TuningSuite(), TuningSuite()]
    quiet_trainer(callbacks=list(suites)).fit(Mlp())
    assert [len(suite.members) for suite in suites] == [len(RECOMMENDED), 0]


def test_two_different_suites_are_refused() -> None:
    trainer = quiet_trainer(callbacks=[TuningSuite(), TuningSuite(ignore=["LT301"])])
    with pytest.raises(MisconfigurationException, match="`callbacks` holds TuningSuites with different arguments"):
        trainer.fit(Mlp())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_finding": "stop"}, "`on_finding` must be one of"),
        ({"select": "LT6"}, "`select` must be a list"),
        ({"ignore": ["LT6666"]}, "`ignore` has 'LT6666'"),
        ({"report": 3}, "`report`: `path` must be a path or None, got 3"),
        ({"report": "."}, "`report`: `path` must be"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuningSuite(**arguments)


def test_after_pickling_it_starts_anew() -> None:
    suite = TuningSuite(ignore=["LT301"])
    quiet_trainer(callbacks=[suite]).fit(Mlp())
    again = pickle.loads(pickle.dumps(suite))
    assert again.findings == []
    quiet_trainer(callbacks=[again]).fit(Mlp())
    assert len(again.members) == len(RECOMMENDED)


def test_attached_by_the_module_itself() -> None:
    class Attaches(Mlp):
        def configure_callbacks(self) -> list[Callback]:
            return [TuningSuite()]

    trainer = quiet_trainer()
    trainer.fit(Attaches())
    assert any(isinstance(callback, TuningSuite) for callback in trainer.callbacks)
    assert torch.isfinite(trainer.callback_metrics["train_loss"])


@pytest.fixture
def _plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "render_report", lambda run: f"the page of {len(run.blocks)} steps")


def reports(suite: TuningSuite) -> list[TuningReport]:
    return [member for member in suite.members if isinstance(member, TuningReport)]


@pytest.mark.usefixtures("_plain_page")
def test_a_report_is_made_through_the_suite_as_without_it() -> None:
    suite = TuningSuite(report="a.html")
    with pytest.warns(TuningWarning, match="LT701"):
        quiet_trainer(callbacks=[suite, NanLossGuard(action="skip")]).fit(BadBatch())
    alone = TuningReport("b.html")
    with pytest.warns(TuningWarning, match="LT701"):
        quiet_trainer(callbacks=[NanLossGuard(action="skip"), alone]).fit(BadBatch())
    by_suite, by_itself = read_run("a_run"), read_run("b_run")
    assert Path("a.html").read_text() == Path("b.html").read_text() == "the page of 7 steps"  # one was dropped
    assert [block.loss for block in by_suite.blocks] == [block.loss for block in by_itself.blocks]
    assert [finding.code for finding in by_suite.findings] == ["LT701"]
    assert by_suite.info["status"] == "finished"
    assert by_suite.model == by_itself.model
    assert by_suite.model is not None


@pytest.mark.usefixtures("_plain_page")
def test_a_run_that_its_suite_ends_is_reported_too() -> None:
    with pytest.raises(TuningError, match="LT701"):
        quiet_trainer(callbacks=[TuningSuite(report="a.html")]).fit(BadBatch())
    run = read_run("a_run")
    assert (run.info["status"], [finding.code for finding in run.findings]) == ("failed", ["LT701"])
    assert Path("a.html").exists()


@pytest.mark.usefixtures("_plain_page")
def test_checks_only_reports_what_the_checks_found() -> None:
    suite = TuningSuite(checks_only=True, report="a.html")
    quiet_trainer(callbacks=[suite]).fit(Mlp(lr=5.0))
    assert [finding.code for finding in read_run("a_run").findings] == ["LT408", "LT413"]
    assert {type(member).__module__.split(".")[1] for member in suite.members} == {"checks", "recording"}


@pytest.mark.usefixtures("_plain_page")
def test_a_report_of_the_users_own_is_the_one() -> None:
    suite, own = TuningSuite(report="a.html"), TuningReport("b.html")
    quiet_trainer(callbacks=[suite, own]).fit(Mlp())
    assert reports(suite) == []
    assert (Path("a.html").exists(), Path("b.html").exists()) == (False, True)


def test_where_a_report_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reports(TuningSuite()) == []
    Path("pyproject.toml").write_text('[tool.lightning-tuning]\nreport = "file.html"\n', encoding="utf-8")
    assert [str(report.path) for report in reports(TuningSuite())] == ["file.html"]
    monkeypatch.setenv("LIGHTNING_TUNING", "report=variable.html")
    assert [str(report.path) for report in reports(TuningSuite())] == ["variable.html"]
    assert [str(report.path) for report in reports(TuningSuite(report="code.html"))] == ["code.html"]
    assert reports(TuningSuite(report="")) == []
