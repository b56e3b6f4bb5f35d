"""A run is kept, however it ends: what the folder tells is what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_tuning import GradientExplosionMonitor, Journal, Preflight, TuningError, TuningReport, TuningSuite
from lightning_tuning.findings import Rule, Severity
from lightning_tuning.recording import _folder, _record
from lightning_tuning.reporters.html import ReportExtraError
from lightning_tuning.reporters.run_folder import read_run
from lightning_tuning.reporters.run_record import Run
from lightning_tuning.runtime import TuningCallback
from lightning_tuning.runtime.sparing import RAISE
from tests.helpers import DropoutNet, ManualGAN, Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

pytestmark = [
    # Lightning tells a run that is resumed without the ModelCheckpoint that wrote the file; here that is the point.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:LT997:lightning_tuning.TuningWarning"),  # what `Says` says, on purpose
]

ODD = Rule("LT997", "odd-step", Severity.WARNING, "fact", why="It is.", remedy="None.", source="A test.")


def fit(model: pl.LightningModule, *callbacks: pl.Callback, path: Path | None = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(model, ckpt_path=path)
    return trainer


def recorded(folder: str = "report_run") -> Run:
    run = read_run(folder)
    assert run.problems == []
    return run


class Losses(pl.Callback):
    """What was recorded has to be this."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


class At(pl.Callback):
    """Does something at a step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.what()


class Says(TuningCallback):
    """Finds something at a step."""

    def __init__(self, step: int = 4) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.report(trainer, ODD.finding(f"odd on rank {trainer.global_rank}", where=f"net.{trainer.global_rank}"))


def raises(error: BaseException) -> Any:
    def now() -> None:
        raise error

    return now


def test_what_the_folder_tells() -> None:
    class Stepped(Mlp):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)]

    losses = Losses()
    trainer = fit(Stepped(), losses, TuningReport(None, every_n_steps=5), max_epochs=5, gradient_clip_val=0.5)
    run = recorded()
    assert [block.loss for block in run.blocks] == pytest.approx(losses.losses, rel=1e-6)
    assert [block.step for block in run.blocks] == list(range(40))
    assert [block.epoch for block in run.blocks] == [step // 8 for step in range(40)]
    norms = [block.grad_norm for block in run.blocks]
    assert [block.clipped for block in run.blocks] == [float(norm > 0.5) for norm in norms if norm is not None]
    assert {block.clip for block in run.blocks} == {0.5}
    assert {block.optimizer for block in run.blocks} == {0}

    rates = {sample.step: sample.values["SGD group 0"] for sample in run.samples["lr"]}
    assert list(rates.values()) == pytest.approx([0.1, 0.01, 0.001])
    simulated = run.info["schedule"]
    assert simulated["steps"] == [0, 16, 32, 40]
    assert simulated["lr"]["SGD group 0"] == pytest.approx([0.1, 0.01, 0.001, 0.001])
    assert all(0 <= actual - planned < 10 for actual, planned in zip(rates, simulated["steps"], strict=False))

    by_parameter = run.samples["grad_norm"]
    assert [sample.step for sample in by_parameter] == list(range(0, 40, 5))
    assert set(by_parameter[0].values) == {name for name, _ in trainer.lightning_module.named_parameters()}
    total = sum(value**2 for value in by_parameter[1].values.values()) ** 0.5
    assert total == pytest.approx(run.blocks[5].grad_norm, rel=1e-5)
    assert [sample.step for sample in run.samples["validation"]] == [8, 16, 24, 32, 40]
    val_loss = float(trainer.callback_metrics["val_loss"])
    assert run.samples["validation"][-1].values["val_loss"] == pytest.approx(val_loss, rel=1e-6)

    assert run.info["status"] == "finished"
    assert run.info["started"] <= run.info["ended"]
    assert run.info["model"] == {"class": f"{__name__}.{Stepped.__qualname__}", "parameters": 467, "trained": 467}
    assert (run.info["trainer"]["steps"], run.info["trainer"]["max_epochs"]) == (40, 5)
    assert run.info["versions"]["torch"] == torch.__version__
    assert run.model is not None
    assert [node.kind for node in run.model.nodes] == ["Linear", "ReLU", "Linear", "ReLU", "Linear", "loss"]
    assert run.findings == []
    assert not Path("report.html").exists()


def test_with_the_suite_all_that_is_measured_is_kept() -> None:
    suite = TuningSuite(options={"UpdateMonitor": {"every_n_steps": 10}})
    settings = {"max_epochs": 26, "log_every_n_steps": 10, "limit_val_batches": 0}
    fit(DropoutNet(), suite, TuningReport(None), **settings)
    run = recorded()
    ratios = run.samples["update_ratio"]
    assert [sample.step for sample in ratios] == [9, 59, 109, 159]
    assert set(ratios[0].values) == {"net.0.weight", "net.3.weight"}
    (dead,) = run.samples["dead_units"]
    assert set(dead.values) == {"net.0"}
    logged = {name: [] for sample in run.samples["logged"] for name in sample.values}
    for sample in run.samples["logged"]:
        for name, value in sample.values.items():
            logged[name].append((sample.step, value))
    assert [step for step, _ in logged["tuning/grad_norm"]] == list(range(9, 208, 10))
    norms = {block.step: block.grad_norm for block in run.blocks}
    assert dict(logged["tuning/grad_norm"]) == {step: norms[step] for step in range(9, 208, 10)}
    assert {"tuning/update_ratio", "tuning/dead_units"} <= set(logged)
    cost = run.samples["cost"][0].values
    assert 0 < cost["ours_us_per_step"] < cost["step_us"]
    assert cost["ours_share"] == pytest.approx(cost["ours_us_per_step"] / cost["step_us"], rel=1e-5)
    assert cost["rss_mb"] > 50


@pytest.mark.filterwarnings("ignore:LT302:lightning_tuning.TuningWarning")
def test_dropout_before_a_batch_norm_is_measured() -> None:
    class Shifted(Mlp):
        def build(self) -> torch.nn.Module:
            return torch.nn.Sequential(
                torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 16), torch.nn.BatchNorm1d(16),
                torch.nn.ReLU(), torch.nn.Linear(16, 3),
            )  # fmt: skip

    fit(Shifted(), TuningSuite(options={"VarianceShiftMonitor": {"batches": 8}}, select=["LT302"]), TuningReport(None))
    (shift,) = recorded().samples["variance_shift"]
    assert set(shift.values) == {"net.3"}
    assert f"{shift.values['net.3']:.2f} x" in recorded().findings[0].message


@pytest.mark.parametrize("every", [1, 3])
def test_logged_goes_by_the_trainers_own_steps(every: int) -> None:
    fit(Mlp(), GradientExplosionMonitor(), TuningReport(None), log_every_n_steps=every)
    assert [sample.step for sample in recorded().samples["logged"]] == list(range(every - 1, 8, every))


def test_the_page_is_made() -> None:
    report = TuningReport("out/page.html")
    trainer = fit(Mlp(), TuningSuite(), Says(), report)
    page = Path("out/page.html").read_text(encoding="utf-8")
    assert "LT997" in page
    assert report.folder == Path("out/page_run").absolute()
    assert [f.code for f in recorded("out/page_run").findings] == ["LT997"]
    assert any("page.html" in note for note in Journal.of(trainer).notes)
    Path("out/page.html").unlink()
    del trainer
    assert report.write() == Path("out/page.html").absolute()
    assert Path("out/page.html").read_text(encoding="utf-8") == page


@pytest.fixture
def _keep_sigint() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_keep_sigint")
def test_interrupted_by_the_keyboard() -> None:
    with pytest.raises(SystemExit):
        fit(Mlp(), TuningReport("page.html"), Says(), At(5, raises(KeyboardInterrupt())))
    run = recorded("page_run")
    assert (run.info["status"], run.info["error"]) == ("interrupted", "KeyboardInterrupt")
    assert [block.step for block in run.blocks] == [0, 1, 2, 3, 4]
    assert [f.code for f in run.findings] == ["LT997"]
    assert "LT997" in Path("page.html").read_text(encoding="utf-8")


def test_failed() -> None:
    with pytest.raises(ValueError, match="mine"):
        fit(Mlp(), TuningReport(None), At(3, raises(ValueError("a mistake of mine"))))
    run = recorded()
    assert (run.info["status"], run.info["error"]) == ("failed", "ValueError: a mistake of mine")
    assert len(run.blocks) == 3


def test_failed_before_the_first_step() -> None:
    class NoOptimizer(Mlp):
        def configure_optimizers(self) -> Any:
            raise TypeError

    with pytest.raises(TypeError):
        fit(NoOptimizer(), TuningReport(None))
    run = recorded()
    assert (run.info["status"], run.info["error"], run.blocks) == ("failed", "TypeError", [])
    assert run.info["model"]["parameters"] == 467


def test_a_finding_that_ends_the_run_is_in_it() -> None:
    with pytest.raises(TuningError):
        fit(Mlp(), TuningSuite(on_finding="raise"), Says(), TuningReport(None))
    run = recorded()
    assert [(f.code, f.step) for f in run.findings] == [("LT997", 4)]
    assert [f.code for f in run.told] == ["LT997"]
    assert run.info["status"] == "failed"
    assert run.info["error"].startswith("TuningError: LT997")
    assert [block.step for block in run.blocks] == [0, 1, 2]  # the batch that raised had no end


def test_attached_behind_the_desk_it_still_tells_how_the_run_ended() -> None:
    trainer = fit(Mlp(), Says(), max_epochs=1)
    trainer.callbacks.append(TuningReport(None))
    trainer.callbacks.append(At(10, raises(ValueError("late"))))
    trainer.fit_loop.max_epochs = 2
    with pytest.raises(ValueError, match="late"):
        trainer.fit(trainer.lightning_module)
    run = recorded()
    assert (run.info["status"], run.info["error"]) == ("failed", "ValueError: late")
    assert [block.step for block in run.blocks] == [8, 9]


def test_verdicts_of_the_preflight() -> None:
    fit(Mlp(), Preflight(progress_bar=False), TuningReport(None))
    verdicts = {verdict.name: verdict for verdict in recorded().verdicts}
    assert verdicts["overfit one batch"].outcome == "passed"
    assert verdicts["overfit one batch"].measured == pytest.approx(0.1, abs=0.1)


def test_manual_optimization_with_two_optimizers() -> None:
    fit(ManualGAN(), TuningSuite(), TuningReport(None, every_n_steps=1))
    run = recorded()
    assert [(block.step, block.optimizer) for block in sorted(run.blocks, key=lambda b: b.step)] == [
        (step, step % 2) for step in range(16)
    ]
    assert all(block.grad_norm is not None and block.loss is None for block in run.blocks)
    assert set(run.samples["lr"][0].values) == {"Adam 0 group 0", "Adam 1 group 0"}
    assert run.info["schedule"] is None


def test_accumulated_batches_belong_to_their_step() -> None:
    losses = Losses()
    fit(Mlp(), losses, TuningReport(None), accumulate_grad_batches=4)
    one, other = recorded().blocks
    assert (one.count, one.optimizer, other.step) == (1, 0, 1)
    assert one.loss == pytest.approx(4 * sum(losses.losses[:4]) / 4, rel=1e-6)  # Lightning's are divided by four
    assert other.loss_max == pytest.approx(4 * max(losses.losses[4:]), rel=1e-6)


def test_fast_dev_run() -> None:
    fit(Mlp(), TuningSuite(), TuningReport(None), fast_dev_run=True)
    assert [block.step for block in recorded().blocks] == [0]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_leaves_nothing(stage: str) -> None:
    trainer = quiet_trainer(callbacks=[TuningReport()])
    getattr(trainer, stage)(Mlp(), **({} if stage == "predict" else {"verbose": False}))
    assert list(Path().iterdir()) == []


def test_a_new_run_moves_the_old_one_aside() -> None:
    report, model = TuningReport(None), Mlp()
    Path("report_run").mkdir()
    Path("report_run/notes.txt").write_text("the user's own", encoding="utf-8")
    trainer = fit(model, report)
    assert Path("report_run/notes.txt").exists()
    first = recorded().info["id"]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model)
    assert [block.step for block in recorded().blocks] == list(range(8, 16))
    fit(Mlp(), TuningReport(None), max_epochs=3)
    assert [len(recorded(name).blocks) for name in ("report_run-1", "report_run-2", "report_run")] == [8, 8, 24]
    assert recorded("report_run-1").info["id"] == first


def test_the_page_moves_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _record, "write_page", lambda folder, page: page.write_text(folder.name, encoding="utf-8") and None
    )
    for _ in range(2):
        fit(Mlp(), TuningReport("page.html"), max_steps=1)
    assert sorted(path.name for path in Path().iterdir()) == ["page-1.html", "page.html", "page_run", "page_run-1"]


def test_a_run_that_is_still_going_on_is_left_where_it_is() -> None:
    def other() -> None:
        fit(Mlp(), TuningReport(None), max_steps=2)

    fit(Mlp(), TuningReport(None), At(3, other))
    assert [len(recorded(name).blocks) for name in ("report_run", "report_run-1")] == [8, 2]
    assert not Path("report_run-2").exists()
    assert not _folder._is_being_written(Path("report_run"))


def checkpoints() -> ModelCheckpoint:
    return ModelCheckpoint("ckpt", filename="{step}", every_n_train_steps=1, save_top_k=-1)


def test_a_resumed_run_goes_on_in_its_folder() -> None:
    with pytest.raises(ValueError, match="power"):
        fit(Mlp(), TuningReport(None), checkpoints(), At(13, raises(ValueError("power cut"))), max_epochs=3,
            enable_checkpointing=True)  # fmt: skip
    broken = recorded()
    assert len(broken.blocks) == 13
    fit(Mlp(), TuningReport(None), path=Path("ckpt/step=8.ckpt"), max_epochs=3)
    run = recorded()
    assert [block.step for block in run.blocks] == list(range(24))
    assert (run.info["id"], run.info["started"]) == (broken.info["id"], broken.info["started"])
    assert run.info["status"] == "finished"
    assert "error" not in run.info
    lines = [json.loads(line) for line in Path("report_run/readings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line.get("kind") == "resumed"] == [8]
    seconds = [line["seconds"] for line in lines if line.get("kind") == "steps"]
    assert seconds == sorted(seconds)
    assert not Path("report_run-1").exists()
    fit(Mlp(), TuningReport(None))
    fit(Mlp(), TuningReport(None), path=Path("ckpt/step=8.ckpt"), max_epochs=2)  # its folder is another run's by now
    assert [block.step for block in recorded().blocks] == list(range(8, 16))
    assert len(recorded("report_run-1").blocks) == 24


def test_written_on_demand_in_the_midst_of_a_run() -> None:
    report = TuningReport("page.html")
    seen: list[Any] = []

    def look() -> None:
        assert report.write() == Path("page.html").absolute()
        seen.append((recorded("page_run"), Path("page.html").stat().st_size))

    fit(Mlp(), report, At(6, look))
    ((run, size),) = seen
    assert run.info["status"] == "running"
    assert run.info["trainer"]["steps"] == 6
    assert size > 100_000
    assert len(run.blocks) >= 4


def test_there_is_nothing_to_write_before_a_run() -> None:
    with pytest.raises(RuntimeError, match="no run"):
        TuningReport().write()
    assert TuningReport().folder is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "`path` must be a path or None, got 3"),
        ({"path": ""}, "`path` must be a path or None, got ''"),
        ({"path": "taken"}, "`path` must be that of an HTML file, got 'taken'"),
        ({"run_dir": False}, "`run_dir` must be a path or None, got False"),
        ({"run_dir": "file"}, "`run_dir` must be a folder, or none yet, got 'file'"),
        ({"every_n_steps": 0}, "`every_n_steps` must be a whole number of at least 1, got 0"),
        ({"every_n_steps": 1.5}, "`every_n_steps` must be .* got 1.5"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    Path("taken").mkdir()
    Path("file").touch()
    with pytest.raises(ValueError, match=message):
        TuningReport(**arguments)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ReportExtraError, match=r'pip install "lightning-tuning\[report\]"'):
        TuningReport()
    TuningReport(None)


@pytest.mark.parametrize("where", ["RunFiles.write_run", "RunFiles.write_model", "write_page", "JsonLines.add"])
def test_a_failure_of_its_own_is_told_and_ends_no_run(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RAISE)
    module = _record if where == "write_page" else _folder
    name, _, method = where.partition(".")
    broken = raises(OSError("no space left"))
    if method:
        monkeypatch.setattr(getattr(module, name), method, lambda *_: broken())
    else:
        monkeypatch.setattr(module, name, lambda *_: broken())
    trainer = fit(Mlp(), TuningSuite(), Says(), TuningReport("page.html"))
    assert trainer.global_step == 8
    assert any("TuningReport failed (OSError: no space left)" in note for note in Journal.of(trainer).notes)


def test_a_disk_that_is_full_in_mid_run_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RAISE)

    def fill() -> None:
        monkeypatch.setattr(_folder.JsonLines, "add", lambda *_: raises(OSError("no space left"))())

    trainer = fit(Mlp(), TuningSuite(), Says(), TuningReport(None), At(2, fill), max_epochs=3)
    assert trainer.global_step == 24
    assert [f.code for f in Journal.of(trainer).findings] == ["LT997"]
    told = [note for note in Journal.of(trainer).notes if "TuningReport failed (OSError: no space left)" in note]
    assert told
    assert recorded().info["status"] == "finished"


KILLED = """
import os, signal
from lightning_tuning import TuningReport, TuningSuite
from tests.helpers import Mlp
from tests.recording.test_report import At, Says, fit

fit(Mlp(), TuningSuite(), Says(), TuningReport(), At(500, lambda: os.kill(os.getpid(), signal.SIGKILL)), max_epochs=125,
    limit_val_batches=0)
"""


def test_killed_half_way(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for name in ("readings.jsonl", "findings.jsonl"):
        lines = Path("report_run", name).read_text(encoding="utf-8").splitlines()
        assert all(isinstance(json.loads(line), dict) for line in lines)
    run = recorded()
    assert run.info["status"] == "running"
    assert [f.code for f in run.findings] == ["LT997"]
    assert run.model is not None
    steps = [block.step for block in run.blocks]
    assert steps == list(range(len(steps)))
    assert 500 - 31 <= len(steps) <= 500
    assert not _folder._is_being_written(Path("report_run"))
    page = Path("page.html")
    _record.write_page(Path("report_run"), page)
    assert "LT997" in page.read_text(encoding="utf-8")


def on_a_rank(rank: int) -> dict[str, Any]:
    report = TuningReport(None, every_n_steps=1)
    trainer = fit(Mlp(), TuningSuite(), Says(2), report, strategy=gloo(), devices=2, max_steps=3)
    kept = None if report.folder is None else read_run(report.folder)
    return {"files": sorted(path.name for path in Path().glob("report*")), "run": kept, "steps": trainer.global_step}


def test_on_two_ranks_the_first_one_writes_what_all_have_found() -> None:
    first, other = on_two_ranks(on_a_rank)
    assert (first["steps"], other["steps"], other["run"]) == (3, 3, None)
    run = first["run"]
    assert run.problems == []
    assert [(f.where, f.rank) for f in run.findings] == [("net.0", 0), ("net.1", 1)]
    assert [f.where for f in run.told] == ["net.0"]
    assert [block.step for block in run.blocks] == [0, 1, 2]
    assert run.info["trainer"]["devices"] == 2
    assert first["files"] == ["report_run"]


def test_nothing_of_the_run_is_kept_in_the_process() -> None:
    report = TuningReport(None)
    trainer = fit(Mlp(), report, max_epochs=4)
    assert all("Timed" not in repr(value) for callback in trainer.callbacks for value in vars(callback).values())
    state: Tensor | Any = report.__getstate__()
    assert state["_recorder"] is None
