"""When findings go to loggers, and what happens if one of those fails."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import uuid
import weakref
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_tuning import (
    Journal,
    LoggerReporter,
    Rule,
    Severity,
    TerminalReporter,
    TuningError,
    TuningSuite,
    TuningWarning,
)
from lightning_tuning.findings import Verdict
from lightning_tuning.runtime import TuningCallback, logger_reporter
from lightning_tuning.runtime.sparing import RAISE
from tests.helpers import Mlp, quiet_trainer
from tests.runtime.reading_logs import csv_numbers, csv_rows, tensorboard_texts

TABLE, PAGE = "lightning_tuning_findings.csv", "lightning_tuning_findings.md"


class Finds(TuningCallback):
    """Reports a finding of its own at each of these steps."""

    def __init__(self, *steps: int, severity: Severity = Severity.INFO) -> None:
        self.steps = steps
        self.rule = Rule("LT995", "odd", severity, "fact", why="It is.", remedy="None.", source="A test.")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in self.steps:
            self.report(trainer, self.rule.finding("it is odd", where=f"net.{trainer.global_step}"))


def page_of(logger: CSVLogger) -> str:
    return Path(logger.log_dir, PAGE).read_text("utf-8")


@pytest.fixture
def _as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RAISE)


def test_a_healthy_run_says_that_nothing_was_found() -> None:
    logger = CSVLogger("logs")
    quiet_trainer(callbacks=[Finds()], logger=logger).fit(Mlp())
    assert page_of(logger) == "# lightning-tuning: no findings\n"
    assert csv_rows(logger, TABLE) == []
    ours = {number for number in csv_numbers(logger) if number[0].startswith("tuning/")}
    assert ours == {(f"tuning/findings/{severity}", 8, 0.0) for severity in Severity}


@pytest.mark.parametrize(
    "settings", [{"logger": False}, {"fast_dev_run": 2, "logger": CSVLogger("logs")}], ids=["no logger", "fast_dev_run"]
)
def test_without_loggers_nothing_is_written(settings: dict[str, Any], tmp_path: Path) -> None:
    trainer = quiet_trainer(callbacks=[Finds(1)], **settings)
    trainer.fit(Mlp())
    assert len(Journal.of(trainer).findings) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_finding_is_written_as_it_comes() -> None:
    logger = CSVLogger("logs")

    lengths: list[int] = []

    class Reads(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            is_there = Path(logger.log_dir, TABLE).exists()
            lengths.append(len(csv_rows(logger, TABLE)) if is_there else 0)

    quiet_trainer(callbacks=[Finds(2, 4), Reads()], logger=logger).fit(Mlp())
    assert lengths == [0, 0, 1, 1, 2, 2, 2, 2]


def test_a_run_that_ends_in_an_error_is_summed_up() -> None:
    class Fails(Mlp):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step == 5:
                raise RuntimeError("broken")

    loggers = [CSVLogger("logs"), TensorBoardLogger("board")]
    with pytest.raises(RuntimeError, match="broken"):
        quiet_trainer(callbacks=[Finds(3)], logger=loggers).fit(Fails())
    assert "it is odd" in page_of(loggers[0])
    assert sorted(tensorboard_texts(loggers[1])) == ["lightning_tuning/LT995-odd", "lightning_tuning/summary"]


def test_a_finding_that_ends_the_run_is_told_first() -> None:
    logger = CSVLogger("logs")
    suite = TuningSuite(on_finding="raise", ignore=["LT90"])
    with pytest.raises(TuningError):
        quiet_trainer(callbacks=[suite, Finds(3, severity=Severity.ERROR)], logger=logger).fit(Mlp())
    assert page_of(logger).startswith("# lightning-tuning: 1 error\n")
    assert ("tuning/findings/error", 2, 1.0) in csv_numbers(logger)


def test_nothing_is_sent_twice_after_a_resume() -> None:
    board = {"save_dir": "board", "version": "run"}
    first = quiet_trainer(callbacks=[Finds(3)], logger=TensorBoardLogger(**board))
    first.fit(Mlp(batches=4))
    first.save_checkpoint("half.ckpt")
    again, table = TensorBoardLogger(**board), CSVLogger("logs")
    resumed = quiet_trainer(callbacks=[Finds(3, 6)], logger=[again, table], max_epochs=2)
    resumed.fit(Mlp(batches=4), ckpt_path="half.ckpt")
    texts = tensorboard_texts(again)
    assert [step for step, _ in texts["lightning_tuning/LT995-odd"]] == [2, 5]  # steps of loggers begin with 0
    assert [step for step, _ in texts["lightning_tuning/summary"]] == [4, 8]
    assert [(line["where"], line["step"]) for line in csv_rows(table, TABLE)] == [("net.3", "3"), ("net.6", "6")]


class FullBoard(TensorBoardLogger):
    """Has no room for texts."""

    @property
    def experiment(self) -> Any:
        writer = super().experiment
        writer.add_text = self._fail
        return writer

    def _fail(self, *_: Any) -> None:
        raise OSError(f"No space left on device\n{uuid.uuid4()}")


class FullTable(CSVLogger):
    """Has no room for our numbers."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if any(name.startswith("tuning/") for name in metrics):
            raise OSError(f"disk {step} is full")
        super().log_metrics(metrics, step)


@pytest.mark.usefixtures("_as_for_users")
def test_loggers_that_fail_end_nothing_and_are_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    whole = CSVLogger("whole")
    loggers = [FullBoard("board"), FullTable("table"), whole]
    trainer = quiet_trainer(callbacks=[Finds(3, 5)], logger=loggers)
    trainer.fit(Mlp())
    assert trainer.global_step == 8
    assert Journal.of(trainer).notes == [
        f"{name} did not take all that lightning-tuning had for it (OSError: {what}); the training went on."
        for name, what in {"FullBoard": "No space left on device", "FullTable": "disk 2 is full"}.items()
    ]
    assert len(csv_rows(whole, TABLE)) == len(csv_rows(loggers[1], TABLE)) == 2
    assert ("tuning/findings/info", 4, 2.0) in csv_numbers(whole)
    assert capsys.readouterr().out.count("did not take all") == 2


@pytest.mark.usefixtures("_as_for_users")
def test_a_failure_in_the_summary_is_in_the_summary_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    quiet_trainer(callbacks=[Finds()], logger=FullBoard("board")).fit(Mlp())
    assert "FullBoard did not take all" in capsys.readouterr().out


@pytest.mark.usefixtures("_as_for_users")
def test_a_failure_of_our_own_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_reporter, "summary_markdown", lambda *_: 1 / 0)
    trainer = quiet_trainer(callbacks=[Finds(3)], logger=CSVLogger("logs"))
    trainer.fit(Mlp())
    (note,) = Journal.of(trainer).notes
    assert note.startswith("LoggerReporter failed (ZeroDivisionError: division by zero), which is a fault of lightning")


def test_a_failure_is_raised_where_that_is_asked_for() -> None:
    with pytest.raises(OSError, match="disk 2 is full"):
        quiet_trainer(callbacks=[Finds(3)], logger=FullTable("table")).fit(Mlp())


@pytest.mark.parametrize("broken", [False, True])
def test_findings_can_be_kept_out_of_loggers(broken: bool) -> None:
    class Fails(Mlp):
        def on_train_batch_end(self, *_: Any) -> None:
            if broken and self.global_step == 5:
                raise RuntimeError("broken")

    logger = CSVLogger("logs")
    trainer = quiet_trainer(callbacks=[TuningSuite(log_findings=False, ignore=["LT90"]), Finds(3)], logger=logger)
    if broken:
        with pytest.raises(RuntimeError, match="broken"):
            trainer.fit(Fails())
    else:
        trainer.fit(Fails())
    names = {name for name, *_ in csv_numbers(logger)}
    assert "tuning/grad_norm" in names
    assert not any("findings" in name for name in [*names, *(path.name for path in Path(logger.log_dir).iterdir())])


@pytest.mark.parametrize("is_named", [False, True])
def test_who_names_reporters_has_no_others(is_named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    logger = CSVLogger("logs")
    trainer = quiet_trainer(callbacks=[Finds(3)], logger=logger)
    journal = Journal.of(trainer)
    journal.reporters += [LoggerReporter(trainer, journal) if is_named else TerminalReporter(summary=False)]
    trainer.fit(Mlp())
    names = sorted(path.name for path in Path(logger.log_dir).iterdir())
    assert names == ([TABLE, PAGE] if is_named else []) + ["metrics.csv"]
    assert "lightning-tuning" not in capsys.readouterr().out


def test_preflight_is_told_in_the_summary() -> None:
    logger = CSVLogger("logs")
    trainer = quiet_trainer(logger=logger)
    assert logger.experiment is not None  # made, as at the beginning of a fit
    journal = Journal.of(trainer)
    reporter = LoggerReporter(trainer, journal)
    reporter.verdicts([Verdict("overfit one batch", "failed", "loss 1.1 -> 0.76")], [])
    for told in (True, False):
        reporter.close([], [])
        assert ("- **failed**: overfit one batch: loss 1.1 -&gt; 0.76" in page_of(logger)) is told


def test_a_store_elsewhere_is_written_to() -> None:
    logger = CSVLogger("memory://logs", version="run")
    quiet_trainer(callbacks=[Finds(3)], logger=logger).fit(Mlp())
    (path,) = fsspec.filesystem("memory").glob(f"/**/{PAGE}")
    assert "it is odd" in fsspec.filesystem("memory").cat_file(path).decode()


def test_callbacks_are_pickled_without_loggers() -> None:
    callbacks = [TuningSuite(ignore=["LT90"]), Finds(3, severity=Severity.WARNING)]
    trainer = quiet_trainer(callbacks=callbacks, logger=[TensorBoardLogger("board"), CSVLogger("logs")])
    with pytest.warns(TuningWarning):
        trainer.fit(Mlp())
    pickled = pickle.dumps(trainer.callbacks)
    assert b"Logger" not in pickled
    assert len(pickle.loads(pickled)) == 3


def test_a_trainer_is_not_kept_alive() -> None:
    trainer = quiet_trainer(callbacks=[Finds(3)], logger=CSVLogger("logs"))
    trainer.fit(Mlp())
    kept = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert kept() is None


def test_no_library_of_a_logger_is_imported() -> None:
    script = (
        "import sys, lightning_tuning as lt; [getattr(lt, name) for name in lt.__all__]; "
        "import lightning_tuning.runtime.logger_forms; "
        "print({'wandb', 'mlflow', 'tensorboard', 'torch.utils.tensorboard', 'markdown_it'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
