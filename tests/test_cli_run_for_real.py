"""``lightning-tuning run`` on scripts that know nothing of it, in real processes, one of them killed half way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_tuning.cli import main
from lightning_tuning.reporters.run_folder import read_run

ROOT = Path(__file__).parent.parent

SCRIPT = """
import os
import sys
import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class LitNet(pl.LightningModule):
    def __init__(self, lr):
        super().__init__()
        self.lr, self.net = lr, torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Wait(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 40:
            print("half way", flush=True)
            sys.stdin.readline()


def fit(lr, epochs, **settings):
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=16)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, **quiet, **settings)
    trainer.fit(LitNet(lr), data)


if __name__ == "__main__":
"""


def start(script: str, main_part: str, *command: str) -> subprocess.Popen[str]:
    Path(script).write_text(SCRIPT + main_part, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_tuning.cli", "run", *command], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="nothing is killed like this elsewhere")
def test_a_script_is_recorded_killed_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    main_part = """
    assert sys.argv == ["train.py", "--lr", "5"], sys.argv
    fit(0.1, epochs=2)
    fit(float(sys.argv[2]), epochs=100, callbacks=[Wait()])
"""
    process = start("train.py", main_part, "--ignore", "LT901,LT904", "train.py", "--lr", "5")
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "half way" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, process.stderr

    first, second = read_run("tuning_run"), read_run("tuning_run-2")
    assert (first.info["status"], second.info["status"]) == ("finished", "running")
    assert sum(block.count for block in first.blocks) == 8
    assert Path("tuning_run/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not {"LT901", "LT904"} & {finding.code for finding in (*first.findings, *second.findings)}

    page = Path("tuning_run-2/report.html")
    assert not page.exists()
    assert main(["report", "tuning_run-2"]) == 0
    printed = capsys.readouterr().out
    assert "tuning_run-2/report.html: " in printed
    assert "the run is not over: still going on, or killed" in printed
    assert "LT408" in page.read_text(encoding="utf-8")


def test_a_module_on_two_ranks_ends_as_it_would_without_us() -> None:
    main_part = """
    assert __spec__.name == "project.train" and sys.argv[1:] == ["--epochs", "2"]
    fit(0.1, epochs=2, devices=2)
    sys.exit(3 if os.environ["LOCAL_RANK"] == "0" else 0)  # a child that fails has Lightning kill its parent
"""
    Path("project").mkdir()
    process = start("project/train.py", main_part, "--run-dir", "runs/a", "-m", "project.train", "--epochs", "2")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert "runs/a" in "".join((out + err).split())  # a long path is told in two lines
    assert [path.name for path in Path("runs").iterdir()] == ["a"]
    run = read_run("runs/a")
    assert (run.info["status"], run.info["trainer"]["devices"]) == ("finished", 2)
