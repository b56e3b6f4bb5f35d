"""``lightning-tuning replay``: from a script's run to the same verdict, a mended script, and what is said of misuse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_tuning.cli import main
from lightning_tuning.guards.bundle._folder import MANIFEST, _seal

SCRIPT = """
import dataclasses
import lightning.pytorch as pl, torch, torch.nn.functional as F
from torch.utils.data import DataLoader
from lightning_tuning import NanLossGuard, TuningError
from tests.helpers import CLASSES, blobs, quiet_trainer

@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor

    def halved(self):
        return self.x / 2

def collate(items):
    return Batch(*map(torch.stack, zip(*items)))

class Net(pl.LightningModule):
    def __init__(self, hidden, eps=0.0, lr=0.1):
        super().__init__()
        self.save_hyperparameters("hidden", "eps")
        self.eps = eps
        first, last = torch.nn.Linear(8, hidden), torch.nn.Linear(hidden, CLASSES)
        self.net = torch.nn.Sequential(first, torch.nn.Dropout(0.5), last)
    def training_step(self, batch, batch_idx):
        print("a print of the user's")
        mask = F.dropout(torch.ones(4), 0.5)
        ratio = 1 / (mask.sum() + self.eps)
        return F.cross_entropy(self.net(batch.halved()), batch.y) + 0 * ratio
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def train_dataloader(self):
        return DataLoader(blobs(1600), batch_size=16, collate_fn=collate)

class Logs(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.net[0].weight.sum().mul(0).log()

class Breaks(Net):
    def __init__(self, hidden):
        raise RuntimeError("a mistake of the user's")

class Raises(Net):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("a mistake in the step")

def run():
    pl.seed_everything(3, verbose=False)
    try:
        quiet_trainer(callbacks=[NanLossGuard(bundle_dir="bundles")]).fit(Net(hidden=6))
    except TuningError as error:
        print(error)

if __name__ == "__main__":
    run()
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the bundle of its run, a process of its own where the script is ``__main__``."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "their_net.py").write_text(SCRIPT)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "their_net.py"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert "1 bundle into bundles" in " ".join(done.stdout.split())
    return folder


@pytest.fixture
def bundle(written: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(written)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "300")
    (path,) = Path("bundles").iterdir()
    yield str(path)
    sys.modules.pop("their_net", None)


def test_the_same_verdict_exits_0(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", bundle, "their_net:Net"]) == 0
    printed = capsys.readouterr()
    recorded, now = (next(line for line in printed.out.splitlines() if line.startswith(w)) for w in ("recorded", "now"))
    assert recorded.removeprefix("recorded").split() == now.removeprefix("now").split()
    assert "division-by-zero: " in now
    assert "reproduced: division-by-zero, the same cause in the same operation" in printed.out
    assert "a print of the user's" not in printed.out
    assert "a print of the user's" in printed.err
    assert "mind" not in printed.out


def test_a_mended_model_exits_1_and_says_so(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", bundle, "their_net:Net", "--arg", "eps=1e-6"]) == 1
    printed = capsys.readouterr().out
    assert "every number is finite" in printed
    assert "the step is finite now: the recorded cause is gone" in printed


def test_another_cause_exits_1(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", bundle, "their_net:Logs", "--arg", "eps=1", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "another cause: log-of-zero now, division-by-zero recorded"
    assert (report["recorded"]["cause"], report["now"]["cause"]) == ("division-by-zero", "log-of-zero")
    assert (report["same"], report["finite"], report["finding"]["code"]) == (False, False, "LT701")


def test_a_step_that_raises_exits_1(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", bundle, "their_net:Raises"]) == 1
    printed = capsys.readouterr().out
    assert "a mistake in the step" in printed
    assert "not reproduced: the step could not be repeated" in printed


def test_a_config_of_lightning_cli(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(
        "model: {class_path: their_net.Net, init_args: {hidden: 6}}\ntrainer: {devices: 8}\n"
    )
    assert main(["replay", bundle, "--config", "config.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bundles"], "is no bundle: it has no manifest.json; in it there are step-"),
        (["nowhere", "their_net:Net"], "no bundle at 'nowhere': there is no such folder."),
        (["BUNDLE"], "that of the run was their_net:Net: lightning-tuning replay bundles/step-"),
        (["BUNDLE", "their_net:Nett"], "has no 'Nett'; its classes: "),
        (["BUNDLE", "their_net:Batch"], "'Batch': missing a required argument"),
        (["BUNDLE", "their_net:Net", "--arg", "hidden=9"], "of another shape: net.0.weight [9, 8] (recorded [6, 8])"),
        (["BUNDLE", "their_net:Net", "--arg", "depth=9"], "got an unexpected keyword argument 'depth'"),
        (["BUNDLE", "--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_what_cannot_be_done_exits_2(
    bundle: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", *(bundle if word == "BUNDLE" else word for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_error_of_the_users_exits_2(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", bundle, "their_net:Breaks"]) == 2
    captured = capsys.readouterr().err
    assert "a mistake of the user's" in captured
    assert "nothing was replayed" in captured


def test_what_does_not_fit_may_be_left_out(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", bundle, "their_net:Net", "--arg", "hidden=9", "--partial"]) == 0
    assert "mind" in capsys.readouterr().out


def test_a_bundles_arguments_make_nothing(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a bundle from elsewhere holds a ``class_path`` among the hyperparameters, it stays a dict."""
    evil = shutil.copytree(bundle, tmp_path / "evil")
    module = torch.load(evil / "module.pt", weights_only=True)
    module["hparams"]["eps"] = {"class_path": "os.mkdir", "init_args": {"path": str(tmp_path / "executed")}}
    torch.save(module, evil / "module.pt")
    (evil / MANIFEST).unlink()
    _seal(evil)
    assert main(["replay", str(evil), "their_net:Net"]) == 1
    assert "unsupported operand" in capsys.readouterr().out
    assert not (tmp_path / "executed").exists()
