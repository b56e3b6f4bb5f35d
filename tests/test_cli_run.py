"""``lightning-tuning run``: the script is run as Python runs it, with the suite attached and a record kept."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lightning_tuning import Journal, TuningReport, TuningSuite, plugin
from lightning_tuning.cli import main
from lightning_tuning.findings.run_order import RunOrder
from lightning_tuning.recommended import RECOMMENDED
from lightning_tuning.recording import ordered as ordered_module
from lightning_tuning.recording import page
from lightning_tuning.reporters.run_folder import read_run
from tests.helpers import Mlp, quiet_trainer


class BecameAnotherError(Exception):
    """``exec`` does not come back."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_TUNING", raising=False)
    monkeypatch.setenv("LIGHTNING_TUNING_RUN", "")  # so that what a test makes of it is put back


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``started("train.py")`` is what ``lightning-tuning run train.py`` becomes: its command and its environment."""
    Path("train.py").touch()

    def execve(path: str, command: list[str], environment: dict[str, str]) -> None:
        assert path == sys.executable
        raise BecameAnotherError(command, environment)

    monkeypatch.setattr(os, "execve", execve)

    def start(*arguments: str) -> tuple[list[str], dict[str, str]]:
        with pytest.raises(BecameAnotherError) as became:
            main(["run", *arguments])
        command, environment = became.value.args
        return command[1:], environment

    return start


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train.py"], ["train.py"]),
        (["train.py", "--ignore", "x", "-m", "-h"], ["train.py", "--ignore", "x", "-m", "-h"]),
        (["--ignore", "LT3", "train.py", "--", "-x"], ["train.py", "--", "-x"]),
        (["-m", "project.train", "--lr", "1"], ["-m", "project.train", "--lr", "1"]),
        (["--run-dir", "a", "-m", "project.train", "-m"], ["-m", "project.train", "-m"]),
    ],
)  # fmt: skip
def test_the_script_gets_its_own_arguments(started: Any, arguments: list[str], command: list[str]) -> None:
    assert started(*arguments)[0] == command


def test_what_the_processes_of_the_script_are_told(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_TUNING", "recommended,-LT9")
    monkeypatch.setenv("OTHER", "stays")
    _, environment = started(
        "--select", "LT3,LT4", "--select", "encoder.*", "--ignore", "LT301", "--run-dir", "runs/a",
        "--setting", "on-finding=raise", "--setting", "severity.LT901=error",
        "--setting", "thresholds.LT601.ratio=20", "--setting", "per-path-ignores.legacy/*.py=[LT3]",
        "--setting", "options.UpdateMonitor.every_n_steps=7", "train.py",
    )  # fmt: skip
    monkeypatch.setenv("LIGHTNING_TUNING_RUN", environment["LIGHTNING_TUNING_RUN"])
    assert RunOrder.here() == RunOrder(
        str(Path("runs/a").absolute()),
        {
            "select": ["LT3", "LT4", "encoder.*"],
            "ignore": ["LT301"],
            "on-finding": "raise",
            "severity": {"LT901": "error"},
            "thresholds": {"LT601": {"ratio": 20}},
            "per-path-ignores": {"legacy/*.py": ["LT3"]},
            "options": {"UpdateMonitor": {"every_n_steps": 7}},
        },
    )
    assert (environment["LIGHTNING_TUNING"], environment["OTHER"]) == ("recommended,-LT9", "stays")


def test_what_stands_for_the_variable(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_TUNING", "recommended")
    assert started("--setting", "check-only", "train.py")[1]["LIGHTNING_TUNING"] == "check-only"
    assert started("--setting", "tuning.yaml", "train.py")[1]["LIGHTNING_TUNING"] == str(Path("tuning.yaml").absolute())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`run` needs a script, or -m and a module"),
        (["-m"], "`run` needs a script, or -m and a module"),
        (["no.py"], "there is no script 'no.py'"),
    ],
)
def test_what_cannot_be_run(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``ordered(settings)`` makes this the process of a script that ``lightning-tuning run`` has started."""
    monkeypatch.setattr(ordered_module, "_count", itertools.count(1))
    monkeypatch.setattr(page, "render_report", lambda run: f"the page of {len(run.blocks)} steps")

    def order(settings: dict[str, Any] | None = None) -> None:
        for name, value in RunOrder(str(Path("runs/a").absolute()), settings or {}).environment().items():
            monkeypatch.setenv(name, value)

    return order


def kinds(suite: TuningSuite) -> set[str]:
    return {type(member).__name__ for member in suite.members}


def test_the_suite_is_attached_and_keeps_a_record(ordered: Any) -> None:
    ordered({"ignore": ["LT301"]})
    (suite,) = plugin.callbacks()
    assert suite.gives_way
    assert suite._settings["ignore"] == ("LT301",)
    assert kinds(suite) == {*(kind.__name__ for kind, _ in RECOMMENDED), "TuningReport"}


@pytest.mark.parametrize("word", ["off", " OFF ", "0"])
def test_off_leaves_the_record(ordered: Any, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    ordered()
    monkeypatch.setenv("LIGHTNING_TUNING", word)
    (suite,) = plugin.callbacks()
    assert kinds(suite) == {"TuningReport"}


def test_a_broken_variable_leaves_the_record_too(
    ordered: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ordered()
    monkeypatch.setenv("LIGHTNING_TUNING", "recomended")
    with pytest.warns(RuntimeWarning, match="Did you mean 'recommended'"):
        trainer = quiet_trainer()
    trainer.fit(Mlp())
    assert Path("runs/a/report.html").read_text(encoding="utf-8") == "the page of 8 steps"
    assert Journal.of(trainer).notes == [f"the report of this run: {Path('runs/a/report.html').absolute()}"]
    assert "- the report of this run:" in capsys.readouterr().out


def test_each_trainer_that_fits_has_a_folder_of_its_own(ordered: Any) -> None:
    ordered()
    quiet_trainer().validate(Mlp(), verbose=False)
    callbacks = [pl.Callback()]
    for _ in range(2):  # the plugin's suite stays in the list
        pl.Trainer(
            accelerator="cpu", callbacks=callbacks, max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(Mlp())  # fmt: skip
    quiet_trainer(max_epochs=2).fit(Mlp())
    assert {path.name: len(read_run(path).blocks) for path in Path("runs").iterdir()} == {"a": 8, "a-2": 8, "a-3": 16}


def test_an_earlier_run_is_not_lost(ordered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered()
    for epochs in (1, 2):
        monkeypatch.setattr(ordered_module, "_count", itertools.count(1))  # another process
        quiet_trainer(max_epochs=epochs).fit(Mlp())
    assert {path.name: len(read_run(path).blocks) for path in Path("runs").iterdir()} == {"a": 16, "a-1": 8}
    assert Path("runs/a-1/report.html").read_text(encoding="utf-8") == "the page of 8 steps"


def test_a_run_beside_another_has_its_report_in_its_own_folder(ordered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered()

    class Beside(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
            monkeypatch.setattr(ordered_module, "_count", itertools.count(1))  # another process
            quiet_trainer(max_epochs=2).fit(Mlp())

    quiet_trainer(callbacks=[Beside()]).fit(Mlp())
    pages = {str(path): path.read_text(encoding="utf-8") for path in Path("runs").rglob("*.html")}
    assert pages == {"runs/a/report.html": "the page of 8 steps", "runs/a-1/report.html": "the page of 16 steps"}


def test_the_scripts_own_suite_is_left_to_it_and_recorded(ordered: Any) -> None:
    ordered({"ignore": ["LT413"]})
    own = TuningSuite(ignore=["LT408"])
    trainer = quiet_trainer(callbacks=[own])
    trainer.fit(Mlp(lr=5.0))
    assert [finding.code for finding in own.findings] == ["LT413"]
    assert [finding.code for finding in read_run("runs/a").findings] == ["LT413"]
    (others,) = [suite for suite in trainer.callbacks if isinstance(suite, TuningSuite) and suite is not own]
    assert others.members == []


def test_a_report_of_the_scripts_own_is_the_one(ordered: Any) -> None:
    ordered()
    quiet_trainer(callbacks=[TuningReport("mine.html")]).fit(Mlp())
    assert not Path("runs").exists()
    assert Path("mine.html").exists()


def test_without_the_extra_the_run_is_kept(ordered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered()
    missing = pytest.warns(RuntimeWarning, match=r"makes no report: .*pip install \"lightning-tuning\[report\]\"")
    with monkeypatch.context() as without, missing:
        without.setattr("importlib.util.find_spec", lambda name: None)
        trainer = quiet_trainer()
    trainer.fit(Mlp())
    assert Journal.of(trainer).notes == [f"the record of this run: {Path('runs/a').absolute()}"]
    assert len(read_run("runs/a").blocks) == 8
    assert not Path("runs/a/report.html").exists()


def test_the_other_package_is_told(ordered: Any) -> None:
    ordered()
    with pytest.warns(RuntimeWarning, match="attaches nothing: this script trains with `pytorch_lightning`"):
        assert plugin.callbacks_of_the_other_package() == []


def test_the_plugin_knows_the_variable_by_its_name() -> None:
    assert list(RunOrder("a").environment()) == [plugin._ORDER]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select": ["LT9999"]}, "its settings are left aside: `select` has 'LT9999'"),
        ({"ignor": []}, "lightning-tuning run: `ignor` is no setting. Did you mean 'ignore'?"),
        ({"thresholds": {"LT601": {"ratoi": 1}}}, "'ratoi', which is no threshold of it. Did you mean 'ratio'?"),
        ({"options": {"UpdateMonitor": {"every_n_steps": 0}}}, "`every_n_steps` must be"),
    ],
)
def test_a_wrong_setting_of_the_command_line_breaks_no_script(
    settings: dict[str, Any], message: str, ordered: Any
) -> None:
    ordered(settings)
    with pytest.warns(RuntimeWarning) as warned:
        suite = TuningSuite(ignore=["LT301"])  # the script's own
    assert message in str(warned[0].message)
    assert suite._settings["ignore"] == ("LT301",)
    TuningSuite()  # and is said once


def test_what_the_script_itself_gets_wrong_is_still_its_error(ordered: Any) -> None:
    ordered({"ignore": ["LT301"]})
    with pytest.raises(ValueError, match="`ignore` has 'LT9999'"):
        TuningSuite(ignore=["LT9999"])
