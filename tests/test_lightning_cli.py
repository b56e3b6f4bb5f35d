"""Every callback from a YAML file: found by discovery, parsed and made by LightningCLI's own parser."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningCLI

import lightning_tuning
from lightning_tuning import PlateauLRMixin, TuningSuite, WeightInitCallback
from lightning_tuning.cli import main
from tests.browser.visit import Visit, open_browser
from tests.contracts.discovery import ARGUMENTS, CALLBACKS
from tests.helpers import Mlp

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "demos" / "config.yaml"

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    # Of arguments that take more than a number or a word, each form that can be written in YAML.
    "DataCheck": [{"allow": ["step", "batch[0]"], "every": 5}],
    "DropoutBNConflictWarning": [{"severity": "info"}, {"on_conflict": "disable"}],
    "ExportState": [{"path": "out/{name}.pth", "contents": "training", "prefix_strip": "net."}],
    "NanLossGuard": [
        {"action": "rollback", "bundle_dir": "bundles", "quarantine": True},
        {"action": "skip", "quarantine": "bad.json"},
    ],
    "PlateauLR": [{"monitor": "val_acc", "mode": "max", "min_lr": [0.1, 1e-3], "optimizer": [0, 1]}],
    "TuningSuite": [{"select": ["LT6", "encoder.*"], "ignore": ["LT601"], "on_finding": "raise"}],
    "WeightInitCallback": [
        {"scheme": "he", "bias": None, "include": "net.*", "exclude": ["head", "*.2.*"]},
        {"scheme": {"head": "torch.nn.init.xavier_uniform_", "LSTM": "orthogonal", "emb.*": None, "*": "auto"}},
        {"scheme": "torch.nn.init.kaiming_normal_", "distribution": "uniform", "seed": 3},
    ],
}

WAYS = {
    **{name: (name, ARGUMENTS.get(name, {})) for name in CALLBACKS},
    **{f"{name}, {n + 1}": (name, given) for name, all_of in EXAMPLES.items() for n, given in enumerate(all_of)},
}


@pytest.fixture(autouse=True)
def _old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    # `instantiate_classes` is the name that LightningCLI, and jsonargparse before 4.5x, know; the new one warns of it.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def parsed(name: str, arguments: dict[str, Any]) -> tuple[ArgumentParser, Namespace]:
    """A config of one callback, through YAML text and LightningCLI's parser twice: as written, and as it is dumped."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[pl.Callback])
    entry = {"class_path": f"lightning_tuning.{name}", "init_args": json.loads(json.dumps(arguments))}
    read = parser.parse_string(yaml.safe_dump({"callbacks": [entry]}, sort_keys=False))
    return parser, parser.parse_string(parser.dump(read, skip_none=False))


@pytest.mark.parametrize("way", WAYS)
def test_a_config_gives_the_same_callback(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arguments = WAYS[way]
    kind = CALLBACKS[name]
    parser, config = parsed(name, arguments)
    signature, got = inspect.signature(kind), []
    build = kind.__init__

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is kind:
            got.append(signature.bind(*args, **kwargs))
        build(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__init__", recorded)
    (made,) = parser.instantiate_classes(config).callbacks
    assert type(made) is kind
    by_hand = signature.bind(**arguments)
    got[0].apply_defaults()
    by_hand.apply_defaults()
    assert list(got[0].arguments) == list(by_hand.arguments)
    assert {key: plain(value) for key, value in got[0].arguments.items()} == {
        key: plain(value) for key, value in by_hand.arguments.items()
    }


def plain(value: Any) -> Any:
    """YAML has lists where Python has tuples, and text where Python has a path."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_word_that_an_argument_takes_is_taken_from_yaml(name: str) -> None:
    kind = CALLBACKS[name]
    hints = typing.get_type_hints(kind.__init__)
    for argument in inspect.signature(kind).parameters:
        assert argument in hints, f"{name}: `{argument}` has no type hint, so YAML cannot be checked"
        for word in words(hints[argument]):
            _, config = parsed(name, {**ARGUMENTS.get(name, {}), argument: word})
            assert config.callbacks[0].init_args[argument] == word


def words(hint: Any) -> list[Any]:
    """The literals in a hint, and both truth values of a switch."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    if hint is bool:
        return [True, False]
    return [word for part in typing.get_args(hint) for word in words(part)]


@pytest.mark.parametrize("way", [way for way, (name, _) in WAYS.items() if name == "WeightInitCallback"])
def test_a_scheme_from_yaml_is_the_one_from_python(way: str) -> None:
    parser, config = parsed(*WAYS[way])
    (made,) = parser.instantiate_classes(config).callbacks
    assert isinstance(made, WeightInitCallback)
    in_python = {
        "WeightInitCallback, 2": {
            "head": torch.nn.init.xavier_uniform_, "LSTM": "orthogonal", "emb.*": None, "*": "auto"
        },
        "WeightInitCallback, 3": torch.nn.init.kaiming_normal_,
    }.get(way)  # fmt: skip
    if in_python is not None:
        assert made.options.selection.schemes == WeightInitCallback(in_python).options.selection.schemes


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("PlateauLR", {"monitor": "val_loss", "patient": 3}),
        ("PlateauLR", {"monitor": "val_loss", "mode": "least"}),
        ("GradientExplosionMonitor", {"window": "many"}),
        ("ExportState", {"format": "zip"}),
    ],
)
def test_what_is_no_argument_is_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=str(next(reversed(arguments)))):
        parsed(name, arguments)


class Planned(PlateauLRMixin, Mlp):
    """Its schedule is an argument of the module, as in a config."""

    def __init__(self, lr: float = 0.1, plateau: dict[str, Any] | None = None) -> None:
        super().__init__(lr)
        self.plateau = plateau or {}

    def configure_optimizers(self) -> Any:
        return self.with_plateau_lr(torch.optim.SGD(self.parameters(), lr=self.lr), **self.plateau)


@pytest.fixture
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit"])  # pytest's own are none of LightningCLI's


def cli(config: dict[str, Any], **arguments: Any) -> LightningCLI:
    return LightningCLI(
        pl.LightningModule, subclass_mode_model=True, args=config, save_config_callback=None, **arguments
    )


QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.mark.usefixtures("_no_arguments")
def test_a_mixin_takes_its_arguments_from_the_modules_config() -> None:
    plateau = {"monitor": "val_loss", "patience": 2, "factor": 0.3}
    model = {"class_path": f"{__name__}.Planned", "init_args": {"lr": 0.05, "plateau": plateau}}
    sys.modules.setdefault(__name__, sys.modules[Planned.__module__])
    made = cli({"seed_everything": 1, "model": model, "trainer": QUIET}, run=False)
    made.trainer.fit(made.model)
    scheduler = made.trainer.lr_scheduler_configs[0].scheduler
    assert (scheduler.patience, scheduler.factor, made.model.lr) == (2, 0.3, 0.05)


@pytest.mark.usefixtures("_no_arguments")
def test_the_suite_and_its_replacement_from_a_config() -> None:
    callbacks = [
        {"class_path": "lightning_tuning.TuningSuite", "init_args": {"ignore": ["LT610"]}},
        {"class_path": "lightning_tuning.NanLossGuard", "init_args": {"action": "skip"}},
    ]
    made = cli({"model": {"class_path": "tests.helpers.Mlp"}, "trainer": {**QUIET, "callbacks": callbacks}}, run=False)
    made.trainer.fit(made.model)
    (suite,) = (callback for callback in made.trainer.callbacks if isinstance(callback, TuningSuite))
    assert suite._settings["ignore"] == ("LT610",)
    assert not any(type(member).__name__ == "NanLossGuard" for member in suite.members)


def test_a_run_in_a_process(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", ROOT / "demos" / "cli_mnist.py", "fit", "--config", CONFIG),
            *("--model.lr", "0.004", "--data.images", "2048", "--data.download", "false"),
            *("--trainer.max_epochs", "1", "--trainer.limit_val_batches", "2"),
            "--trainer.callbacks+=lightning_tuning.TuningReport",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert re.search(r"weight initialization \(seed 0\): 6 weights initialized", ended.stdout)
    assert "ExportState wrote 1 file" in ended.stdout
    state = torch.load(tmp_path / "checkpoints" / "best.pth", weights_only=True)
    assert next(iter(state)) == "1.weight"
    with open_browser() as browser, Visit(browser, tmp_path / "report.html") as visit:
        assert {*visit.drawn().run("marks.js")} >= {"loss", "gradient", "rates"}
        assert visit.complaints == []
        assert "LitMnist" in visit.page.locator("main").inner_text()


def test_the_check_command_takes_the_same_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    arguments = ["--config", str(CONFIG), "--data-arg", "images=1024", "--data-arg", "download=false"]
    status = main(["check", *arguments, "--accelerator", "cpu", "--batches", "1", "--json"])
    for name in set(sys.modules) - before:
        if name.startswith(("cli_mnist", "mnist_")):
            sys.modules.pop(name)
    assert {verdict["name"] for verdict in json.loads(capsys.readouterr().out)["verdicts"]}
    assert status == 0


def test_every_callback_of_the_demo_is_public_or_lightnings() -> None:
    paths = [entry["class_path"] for entry in yaml.safe_load(CONFIG.read_text())["trainer"]["callbacks"]]
    own = [path.rpartition(".")[2] for path in paths if path.startswith("lightning_tuning.")]
    assert len(own) >= 5
    assert set(own) <= set(lightning_tuning.__all__)
