"""``lightning-tuning check``: what it prints, how it exits, and what it says of wrong usage."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_tuning.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*limit_val_batches.*"),
    pytest.mark.filterwarnings("ignore:GPU available"),
]

SCRIPT = """
import lightning.pytorch as pl, torch, torch.nn.functional as F
from torch.utils.data import DataLoader
from tests.helpers import CLASSES, Mlp, blobs

class Sick(Mlp):
    def training_step(self, batch, batch_idx):
        print("a print of the user's")
        return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")

class Breaks(Mlp):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("a mistake of the user's")

class Activation(torch.nn.Module):
    def __init__(self, slope=0.0):
        super().__init__()
        self.slope = slope
    def forward(self, x):
        return F.leaky_relu(x, self.slope)

class Bare(pl.LightningModule):
    def __init__(self, hidden, lr=0.1, activation=None):
        super().__init__()
        first, last = torch.nn.Linear(8, hidden), torch.nn.Linear(hidden, CLASSES)
        self.net = torch.nn.Sequential(first, activation or torch.nn.ReLU(), last)
        self.lr = lr
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

class Data(pl.LightningDataModule):
    def __init__(self, batch_size=16):
        super().__init__()
        self.batch_size = batch_size
    def train_dataloader(self):
        return DataLoader(blobs(128), batch_size=self.batch_size, shuffle=True)

number = 3
"""


@pytest.fixture(autouse=True)
def _script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's script in the current folder, and nothing left of it in this process."""
    (tmp_path / "their_script.py").write_text(SCRIPT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    yield
    sys.modules.pop("their_script", None)


def test_a_projects_settings_count_and_nothing_ends_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Real runs may be ended by the first finding; here all of them are wanted."""
    text = '[tool.lightning-tuning]\non-finding = "raise"\nignore = ["LT410"]\n'
    Path("pyproject.toml").write_text(text, encoding="utf-8")
    arguments = ["check", "their_script:Sick", "--accelerator", "cpu", "--batches", "2", "--json"]
    assert main(arguments) == 1
    report = json.loads(capsys.readouterr().out)
    assert "LT410" not in {finding["code"] for finding in report["findings"]}
    Path("pyproject.toml").write_text(text.replace("ignore", "ignor"), encoding="utf-8")
    assert main(arguments) == 2
    assert "Did you mean 'ignore'?" in capsys.readouterr().err
    Path("pyproject.toml").unlink()
    main(arguments)
    assert "LT410" in {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_a_healthy_model_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "their_script:Mlp", "--accelerator", "cpu", "--batches", "2"]) == 0
    printed = capsys.readouterr().out
    assert "overfit one batch" in printed
    assert "no findings" in printed


def test_a_sick_one_exits_1_and_tells_it_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "their_script:Sick", "--accelerator", "cpu", "--batches", "1", "--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert "LT410" in [finding["code"] for finding in report["findings"]]
    assert {verdict["name"]: verdict["outcome"] for verdict in report["verdicts"]}["loss scaling"] == "failed"
    assert "a print of the user's" in captured.err


def test_findings_as_sarif_at_their_source_lines(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["their_script:Sick", "--accelerator", "cpu", "--batches", "1", "--format", "sarif"]
    assert main(["check", *arguments]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    (result,) = (result for result in run["results"] if result["ruleId"] == "LT410")
    place = result["locations"][0]["physicalLocation"]
    line = SCRIPT.splitlines()[place["region"]["startLine"] - 1]
    assert place["artifactLocation"] == {"uri": "their_script.py", "uriBaseId": "SRCROOT"}
    assert 'reduction="sum"' in line
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == f"{Path.cwd().as_uri()}/"


def test_findings_without_a_line_are_shown_at_the_class_in_sarif(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["their_script:Bare", "--data", "their_script:Data", "--arg", "hidden=8", "--arg", "lr=30"]
    assert main(["check", *arguments, "--accelerator", "cpu", "--batches", "1", "--format", "sarif"]) in (0, 1)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    (result,) = (result for result in run["results"] if result["ruleId"] == "LT408")
    (location,) = result["locations"]
    assert location["logicalLocations"] == [{"fullyQualifiedName": "SGD group 0"}]
    place = location["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "their_script.py"
    assert SCRIPT.splitlines()[place["region"]["startLine"] - 1].startswith("class Bare")


def test_data_and_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    where = ["their_script:Bare", "--data", "their_script:Data", "--data-arg", "batch_size=32", "--accelerator", "cpu"]
    assert main(["check", *where, "--arg", "hidden=16", "--arg", "lr=5e-2", "--batches", "1"]) == 0
    assert "preflight:" in capsys.readouterr().out


def test_a_config_of_lightning_cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        """
seed_everything: 1
fit:
  model:
    class_path: their_script.Bare
    init_args:
      hidden: 16
      lr: 5e-2
      activation: {class_path: their_script.Activation, init_args: {slope: 0.1}}
  data:
    class_path: their_script.Data
  trainer: {max_epochs: 3, logger: true, gradient_clip_val: 1.0}
"""
    )
    assert main(["check", "--config", "config.yaml", "--accelerator", "cpu", "--batches", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdicts"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a LightningModule"),
        (["nonsense"], "module:Class"),
        (["no_such_module:Net"], "no module 'no_such_module'"),
        (["their_script:Nett"], "has no 'Nett'; its classes: "),
        (["their_script:Activation"], "must be a LightningModule"),
        (["their_script:Bare", "--arg", "hidden=4"], "no `train_dataloader`"),
        (["their_script:Bare"], "hidden"),
        (["their_script:Bare", "--arg", "hidden"], "key=value"),
        (["their_script:Mlp", "--arg", "depth=4", "--arg", "width=3"], "depth"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["their_script:Mlp", "--ignore", "LT0"], "LT0"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments, "--accelerator", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_an_error_of_the_users_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "their_script:Breaks", "--accelerator", "cpu"]) == 2
    assert "a mistake of the user's" in capsys.readouterr().err


@pytest.mark.parametrize("batches", ["0", "-1", "some"])
def test_batches_must_be_some(batches: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["check", "their_script:Mlp", "--batches", batches])
    assert exit_.value.code == 2
