"""``lightning-tuning lr``: what it prints, how it exits, and what it says of wrong usage."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_tuning.cli import main
from lightning_tuning.cli.lr import sparkline

SCRIPT = """
import math, torch, torch.nn.functional as F, lightning.pytorch as pl
from torch.utils.data import DataLoader
from tests.helpers import CLASSES, Mlp, ManualGAN, blobs

class Flat(Mlp):
    def training_step(self, batch, batch_idx):
        print("a print of the user's")
        return super().training_step(batch, batch_idx) * 0 + 2.3

class Breaks(Mlp):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("a mistake of the user's")

class Counts(Mlp):
    steps = 0
    def on_before_optimizer_step(self, optimizer):
        type(self).steps += 1

class Bare(pl.LightningModule):
    def __init__(self, hidden, lr=0.1):
        super().__init__()
        self.net = torch.nn.Linear(8, CLASSES)
        self.lr = lr
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        total = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=total)]

class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(blobs(128), batch_size=16, shuffle=True)
"""

CPU = ["--accelerator", "cpu"]


@pytest.fixture(autouse=True)
def _script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's script in the current folder, and nothing left of it in this process."""
    (tmp_path / "their_script.py").write_text(SCRIPT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    yield
    sys.modules.pop("their_script", None)


def test_a_rate_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lr", "their_script:Mlp", *CPU]) == 0
    printed = capsys.readouterr().out
    assert "1e-07 █" in printed
    for word in ("the loss begins to fall", "steepest fall", "the optimizer has", "Learning rate 0.0"):
        assert word in printed
    assert "what was done" not in printed


def test_as_json_with_a_schedule_and_a_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    where = ["their_script:Bare", "--data", "their_script:Data", "--arg", "hidden=3", "--arg", "lr=1e-5"]
    plot = str(tmp_path / "lr.png")
    assert main(["lr", *where, *CPU, "--json", "--plot", plot, "--steps", "60", "--max-lr", "100"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["suggestion"]["low"] <= report["suggested"] <= report["suggestion"]["high"]
    assert (report["verified"], report["reason"], report["before"]) == (True, None, pytest.approx(1e-5))
    assert len(report["rates"]) == len(report["losses"]) <= 60
    assert Path(plot).stat().st_size > 1000


def test_where_there_is_none_it_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lr", "their_script:Flat", *CPU, "--steps", "20"]) == 1
    assert "does not fall at any rate" in capsys.readouterr().out
    assert main(["lr", "their_script:Flat", *CPU, "--steps", "20", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["suggested"] is None
    assert "a print of the user's" in captured.err


def test_no_step_is_taken() -> None:
    assert main(["lr", "their_script:Counts", *CPU]) == 0
    assert sys.modules["their_script"].Counts.steps == 0


def test_a_config_of_lightning_cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: {class_path: their_script.Bare, init_args: {hidden: 3}}\n"
        "data: {class_path: their_script.Data}\n"
        "trainer: {max_epochs: 3, gradient_clip_val: 1.0, accumulate_grad_batches: 2}\n"
    )
    assert main(["lr", "--config", "config.yaml", *CPU, "--verify", "0"]) == 0
    assert "Learning rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "lightning-tuning lr module:Class"),
        (["their_script:Nett"], "has no 'Nett'; its classes: "),
        (["their_script:Bare", "--arg", "hidden=4"], "no `train_dataloader`"),
        (["their_script:Mlp", "--min-lr", "0"], "`min_lr` must be a finite number above 0"),
        (["their_script:Mlp", "--steps", "3"], "`steps` must be"),
        (["their_script:Mlp", "--verify", "-1"], "`verify` must be"),
        (["their_script:ManualGAN"], "with manual optimization"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lr", *arguments, *CPU]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_an_error_of_the_users_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lr", "their_script:Breaks", *CPU]) == 2
    assert "a mistake of the user's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("losses", "bars"),
    [
        ([], ""),
        ([float("nan")] * 2, "  "),
        ([1.0, 1.0], "▁▁"),
        ([2.0, 1.0, float("inf")], "█▁ "),
        (list(range(120, 0, -1)), None),
    ],
)
def test_bars(losses: list[float], bars: str | None) -> None:
    drawn = sparkline(losses)
    assert drawn == bars if bars is not None else (len(drawn) == 60 and drawn[0] == "█" and drawn[-1] == "▁")
