"""The suite in scripts that do not know of it, as Lightning loads it: by the entry point, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lightning_tuning import Journal, NanLossGuard, TuningSuite, UpdateMonitor, plugin
from tests.helpers import Mlp, quiet_trainer

ROOT = Path(__file__).parent.parent

SCRIPT = """
import sys, warnings
{imports}
from tests.helpers import Mlp, quiet_trainer
trainer = quiet_trainer(callbacks=[{callbacks}])
trainer.fit(Mlp(lr=5.0))
print(sum(type(callback).__name__ == "TuningSuite" for callback in trainer.callbacks), "suites")
"""


def run(setting: str | None, *, imports: str = "", callbacks: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LIGHTNING_TUNING": setting or ""}
    if setting is None:
        del environment["LIGHTNING_TUNING"]
    script = SCRIPT.format(imports=imports, callbacks=callbacks)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", script], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_the_entry_points_are_declared() -> None:
    for group, function in (
        ("lightning.pytorch.callbacks_factory", plugin.callbacks),
        ("pytorch_lightning.callbacks_factory", plugin.callbacks_of_the_other_package),
    ):
        (point,) = [p for p in importlib.metadata.entry_points(group=group) if p.name == "lightning-tuning"]
        assert point.load() is function


def test_an_unmodified_script_is_watched() -> None:
    done = run("recommended")
    assert "1 suites" in done.stdout
    assert "LT408" in done.stdout


@pytest.mark.parametrize("setting", [None, "off"])
def test_unset_or_off_nothing_happens(setting: str | None) -> None:
    done = run(
        setting, imports="import lightning_tuning.plugin as plugin\nassert 'lightning_tuning.suite' not in sys.modules"
    )
    assert done.stdout.splitlines()[-1] == "0 suites"
    assert "lightning-tuning" not in done.stdout + done.stderr


def test_a_broken_setting_warns_and_the_training_goes_on() -> None:
    done = run("recomended")
    assert "lightning-tuning attaches nothing: LIGHTNING_TUNING=recomended" in done.stderr
    assert "Did you mean 'recommended'?" in done.stderr
    assert "0 suites" in done.stdout


def test_loading_the_plugin_costs_no_torch() -> None:
    code = "import sys, lightning_tuning.plugin as p; assert p.callbacks() == []; assert 'torch' not in sys.modules"
    environment = {key: value for key, value in os.environ.items() if key != "LIGHTNING_TUNING"}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``attached(*callbacks)`` is a trainer in whose list the plugin's suite stands last, as Lightning puts it."""
    monkeypatch.setenv("LIGHTNING_TUNING", "recommended,-LT408")

    def make(*callbacks: pl.Callback) -> pl.Trainer:
        return quiet_trainer(callbacks=[*callbacks])

    return make


def suites(trainer: pl.Trainer) -> list[TuningSuite]:
    return [callback for callback in trainer.callbacks if isinstance(callback, TuningSuite)]


def test_it_gives_way_to_the_scripts_own_suite(attached: Any) -> None:
    own = TuningSuite(ignore=["LT413"], on_finding="warn")
    trainer = attached(own)
    trainer.fit(Mlp(lr=5.0))
    one, other = suites(trainer)
    assert (own in (one, other), one.gives_way + other.gives_way) == (True, 1)
    assert [suite.members == [] for suite in (one, other)] == [suite is not own for suite in (one, other)]
    assert [f.code for f in Journal.of(trainer).findings] == ["LT408"]  # as the script's suite has it


def test_a_callback_of_the_scripts_own_replaces_its_member(attached: Any) -> None:
    guard = NanLossGuard("skip")
    trainer = attached(guard)
    trainer.fit(Mlp())
    (suite,) = suites(trainer)
    assert not any(isinstance(member, NanLossGuard) for member in suite.members)
    assert any(isinstance(member, UpdateMonitor) for member in suite.members)


@pytest.mark.usefixtures("attached")
def test_a_list_that_is_used_twice_holds_it_twice_and_works_once() -> None:
    callbacks = [pl.Callback()]  # of an empty list Lightning makes another one
    for expected in (1, 2):
        trainer = pl.Trainer(
            accelerator="cpu", callbacks=callbacks, max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Mlp())
        assert len(suites(trainer)) == expected
        assert sum(bool(suite.members) for suite in suites(trainer)) == 1


def test_the_other_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_TUNING", "recommended")
    with pytest.warns(RuntimeWarning, match="trains with `pytorch_lightning`"):
        assert plugin.callbacks_of_the_other_package() == []
    monkeypatch.delenv("LIGHTNING_TUNING")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plugin.callbacks_of_the_other_package() == []


def test_pytorch_lightnings_own_trainer_trains_and_says_so() -> None:
    script = (
        "import pytorch_lightning as pl, torch\n"
        "class Net(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.layer = torch.nn.Linear(2, 1)\n"
        "    def training_step(self, batch, _): return self.layer(batch).mean()\n"
        "    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)\n"
        "    def train_dataloader(self): return torch.utils.data.DataLoader(torch.randn(8, 2), 4)\n"
        "t = pl.Trainer(max_epochs=1, accelerator='cpu', logger=False, enable_checkpointing=False)\n"
        "t.fit(Net()); print(t.global_step, 'steps')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LIGHTNING_TUNING": "recommended"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stdout
    assert "trains with `pytorch_lightning`" in done.stderr
