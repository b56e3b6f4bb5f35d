"""Numbers and findings in real loggers, read back from what they wrote."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_tuning import (
    ActivationMonitor,
    AdaptiveClipGuard,
    Finding,
    GradientExplosionMonitor,
    Journal,
    PenaltyMonitor,
    Rule,
    Severity,
    UpdateMonitor,
)
from lightning_tuning.reporters.markdown import finding_markdown, summary_markdown
from lightning_tuning.reporters.rows import COLUMNS, csv_text, row
from lightning_tuning.runtime import TuningCallback
from tests.helpers import ManualGAN, Mlp, quiet_trainer
from tests.runtime import reading_logs as read

ODD = Rule("LT995", "odd", Severity.INFO, "fact", why="It is.", remedy="Call `even()`.", source="A test.")
PLAIN = Rule("LT996", "plain", Severity.INFO, "fact", why="It is.", remedy="None.", source="A test.")
NUMBERS: dict[type[Logger], Callable[[Any], read.Numbers]] = {
    TensorBoardLogger: read.tensorboard_numbers,
    CSVLogger: read.csv_numbers,
    MLFlowLogger: read.mlflow_numbers,
    WandbLogger: read.wandb_numbers,
}


class Kept(Logger):
    """A logger that nobody knows: keeps what it is given."""

    name, version = "kept", "0"

    def __init__(self) -> None:
        super().__init__()
        self.numbers: read.Numbers = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.numbers += [(name, step, value) for name, value in metrics.items()]

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class Finds(TuningCallback):
    """Reports two findings in one step and a third later, the first of them twice; looks at what that draws."""

    def __init__(self) -> None:
        self.drew: list[str] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        before = generators()
        for finding in findings_of(trainer.global_step):
            self.report(trainer, finding)
        self.drew += [name for name, state in generators().items() if state != before[name]]


def findings_of(step: int) -> list[Finding]:
    places = {2: ["net.0", "net.2"], 4: ["net.0"], 6: [""]}
    found = [ODD.finding("<b>x</b> is *odd*", where=place, evidence={"x": math.inf}) for place in places.get(step, [])]
    return [PLAIN.finding('é, and "it" too') if not f.where else f for f in found]


def generators() -> dict[str, str]:
    return {
        "random": str(random.getstate()),
        "numpy": str([part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]),
        "torch": str(torch.get_rng_state().tolist()),
    }


class Breaks(Mlp):
    """The last gradients are not a number."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if batch_idx == self.batches - 1 else loss


@dataclasses.dataclass
class Run:
    loggers: dict[type[Logger], Any]
    findings: list[Finding]
    summary: str
    breaks: bool
    finds: Finds


@pytest.fixture(scope="module", params=[Breaks, ManualGAN], ids=["one optimizer", "two optimizers"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, folder)
        loggers = [
            TensorBoardLogger(folder),
            CSVLogger(folder, name="csv"),
            MLFlowLogger(tracking_uri=(folder / "mlruns").as_uri()),
            WandbLogger(save_dir=folder, offline=True),
            Kept(),
        ]
        observers = [GradientExplosionMonitor(), UpdateMonitor(every_n_steps=1), ActivationMonitor(every_n_steps=2)]
        acting = [AdaptiveClipGuard()] if request.param is Breaks else []
        finds = Finds()
        trainer = quiet_trainer(callbacks=[*observers, PenaltyMonitor(), *acting, finds], logger=loggers)
        trainer.fit(request.param())
        wandb.finish()
        by_kind, journal = {type(logger): logger for logger in loggers}, Journal.of(trainer)
        summary = summary_markdown(journal.findings, journal.notes)
        yield Run(by_kind, journal.findings, summary, request.param is Breaks, finds)


def offline(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have W&B and MLflow write below ``folder`` and nowhere else, and call nobody."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        patch.setenv(name, str(folder / "wandb-own"))
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("WANDB_SILENT", "true")
    patch.setenv("WANDB_ERROR_REPORTING", "false")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # what mlflow-skinny has without a database


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_numbers_arrive_as_they_were_given(run: Run, kind: type[Logger]) -> None:
    def ours(numbers: read.Numbers) -> list[tuple[str, int, Any]]:
        return sorted((name, step, str(np.float32(value))) for name, step, value in numbers if "tuning/" in name)

    given = ours(run.loggers[Kept].numbers)
    assert ours(NUMBERS[kind](run.loggers[kind])) == given
    names = {name.removesuffix("/optimizer_0") for name, *_ in given}
    assert names >= {"tuning/grad_norm", "tuning/update_ratio", "tuning/update_ratio_max", "tuning/findings/info"}


def test_a_norm_that_is_no_number_arrives_too(run: Run) -> None:
    norms = [value for name, _, value in run.loggers[Kept].numbers if name.startswith("tuning/grad_norm")]
    assert any(map(math.isnan, norms)) is run.breaks


def test_findings_are_counted(run: Run) -> None:
    name = "tuning/findings/info"
    assert [value for key, _, value in run.loggers[Kept].numbers if key == name][-1] == len(run.findings) >= 3


def test_an_unknown_logger_gets_numbers_alone(run: Run) -> None:
    assert all(isinstance(value, float | int | Tensor) for _, _, value in run.loggers[Kept].numbers)


def test_nothing_is_drawn(run: Run) -> None:
    assert run.finds.drew == []


def test_tensorboard_has_a_text_for_each_finding_and_one_for_all(run: Run) -> None:
    texts = read.tensorboard_texts(run.loggers[TensorBoardLogger])
    summary = texts.pop("lightning_tuning/summary")
    assert [text for _, text in summary] == [run.summary]
    assert sum(map(len, texts.values())) == len(run.findings)
    odd = texts["lightning_tuning/LT995-odd"]
    assert [text.splitlines()[2] for _, text in odd] == ["at `net.0`, step 2", "at `net.2`, step 2"]
    assert odd[0][1] == finding_markdown(dataclasses.replace(first(run, "LT995"), count=1, last_step=2))
    assert "&lt;b&gt;x&lt;/b&gt; is \\*odd\\*" in odd[0][1]


def first(run: Run, code: str) -> Finding:
    return next(finding for finding in run.findings if finding.code == code)


def test_csv_has_a_table_and_a_page_beside_its_numbers(run: Run) -> None:
    logger = run.loggers[CSVLogger]
    folder = Path(logger.log_dir)
    assert sorted(path.name for path in folder.iterdir() if "findings" in path.name) == [
        "lightning_tuning_findings.csv",
        "lightning_tuning_findings.md",
    ]
    assert (folder / "lightning_tuning_findings.csv").read_text("utf-8") == csv_text(run.findings)
    assert (folder / "lightning_tuning_findings.md").read_text("utf-8") == run.summary
    found = [line for line in read.csv_rows(logger, "lightning_tuning_findings.csv") if line["where"] == "net.0"]
    assert [(line["step"], line["count"]) for line in found if line["code"] == "LT995"] == [("2", "2")]


def test_mlflow_has_a_page_and_tags(run: Run, tmp_path: Path) -> None:
    logger = run.loggers[MLFlowLogger]
    client = read.mlflow_client(logger)
    assert [file.path for file in client.list_artifacts(logger.run_id, "lightning_tuning")] == [
        "lightning_tuning/findings.md"
    ]
    page = client.download_artifacts(logger.run_id, "lightning_tuning/findings.md", str(tmp_path))
    assert Path(page).read_text("utf-8") == run.summary
    tags = {name: tag for name, tag in client.get_run(logger.run_id).data.tags.items() if "tuning" in name}
    codes = " ".join(sorted({finding.code for finding in run.findings}))
    assert tags == {
        "lightning_tuning.error": "0",
        "lightning_tuning.warning": "0",
        "lightning_tuning.info": str(len(run.findings)),
        "lightning_tuning.codes": codes,
    }
    assert client.search_runs([logger.experiment_id], "tags.`lightning_tuning.codes` LIKE '%LT996%'")


def test_wandb_has_a_table_that_grows_and_a_page(run: Run) -> None:
    logger = run.loggers[WandbLogger]
    tables = [json.loads(table) for _, table in read.wandb_media(logger, "lightning_tuning/findings")]
    assert [len(table["data"]) for table in tables] == [*range(1, len(run.findings) + 1), len(run.findings)]
    assert tables[-1] == {"columns": list(COLUMNS), "data": [row(finding) for finding in run.findings]}
    ((_, page),) = read.wandb_media(logger, "lightning_tuning/summary")
    assert f"<h1>lightning-tuning: {len(run.findings)} infos</h1>" in page
    assert "<p>&lt;b&gt;x&lt;/b&gt; is *odd*</p>" in page


def test_a_healthy_run_says_so_and_has_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    board, flow = TensorBoardLogger(tmp_path), MLFlowLogger(tracking_uri=(tmp_path / "mlruns").as_uri())
    biases = WandbLogger(save_dir=tmp_path, offline=True)
    quiet_trainer(callbacks=[GradientExplosionMonitor()], logger=[board, flow, biases]).fit(Mlp())
    wandb.finish()
    assert [*read.tensorboard_texts(board).items()] == [
        ("lightning_tuning/summary", [(8, "# lightning-tuning: no findings\n")])
    ]
    tags = read.mlflow_client(flow).get_run(flow.run_id).data.tags
    assert (tags["lightning_tuning.codes"], tags["lightning_tuning.error"]) == ("none", "0")
    assert read.wandb_media(biases, "lightning_tuning/findings") == []
    ((step, page),) = read.wandb_media(biases, "lightning_tuning/summary")
    assert (step, page.count("<h1>lightning-tuning: no findings</h1>")) == (8, 1)
