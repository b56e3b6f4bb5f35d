"""Every callback of norms, dropout and modes is written in a config file as it is in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from lightning_tuning import Journal
from tests.helpers import BNConvNet

CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_tuning.ConvertBatchNorm
      init_args: {to: renorm, r_steps: [1, 2], include: ["net.1"]}
    - class_path: lightning_tuning.DropoutSchedule
      init_args: {start: null, end: 0.1, over: 2, interval: epoch}
    - class_path: lightning_tuning.RecalibrateBatchNorm
      init_args: {batches: 2, when: end, data: loader}
    - class_path: lightning_tuning.FreezeGuard
      init_args: {modules: net.0, parameters: true}
    - class_path: lightning_tuning.ApplyDropout
      init_args: {p: 0.2, where: [net.8]}
    - class_path: lightning_tuning.DropoutBNConflictWarning
      init_args: {on_conflict: move}
"""


class Net(BNConvNet):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)


def test_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what Lightning 2.6 calls in it
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    cli = LightningCLI(
        Net, args=["fit", "--config", str(path)], save_config_callback=None, seed_everything_default=False
    )
    assert Journal.of(cli.trainer).notes == [
        "ConvertBatchNorm converted 1 batch norm to 'renorm'",
        "DropoutSchedule moves the rate of 1 dropout from their own to 0.1",
        "FreezeGuard: frozen: net.0 (1 parameter)",
        "ApplyDropout put p=0.2 in front of net.8",
        "RecalibrateBatchNorm took the statistics of 2 batch norm(s) anew, once",
    ]
