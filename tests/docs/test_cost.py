"""``docs/cost.md`` names callbacks, defaults and a command of the bench that exist."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import shlex
from pathlib import Path

import pytest

import lightning_tuning as lt

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
FIGURES, _, REST = PAGE.partition("## How it is measured")
ROWS = re.findall(r"^\| `(\w+)(?:\(.*?\))?` \| (.*) \|$", REST, flags=re.MULTILINE)


def test_the_command_of_the_figures_measures_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = importlib.import_module("bench")
    (command,) = re.findall(r"^python benchmarks/bench.py .*$", PAGE, flags=re.MULTILINE)
    asked = {}
    monkeypatch.setattr(bench, "bench", lambda model, names, **how: asked.update(how, model=model, names=names))
    monkeypatch.setattr("sys.argv", shlex.split(command)[1:])
    level = logging.getLogger("lightning.pytorch").level
    bench.main()
    logging.getLogger("lightning.pytorch").setLevel(level)
    assert (asked["model"], asked["rounds"], asked["turns"]) == ("mlp", 20, 20)
    assert asked["names"] == re.findall(r"^\| `(.*)` \| [\d.]+ \|", FIGURES, flags=re.MULTILINE)


def test_all_that_a_suite_calls_at_each_step_has_a_price() -> None:
    steady = {type(member).__name__ for member in lt.TuningSuite().members if ".checks." not in type(member).__module__}
    unnamed = steady - {name for name, _ in ROWS}
    assert unnamed == {"ClippingMonitor", "OverfittingMonitor", "StaleGradientMonitor"}, "those next to nothing"


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_defaults_are_those_of_the_code(name: str, row: str) -> None:
    defaults = inspect.signature(getattr(lt, name)).parameters
    for argument, value in re.findall(r"`(\w+)=([\w.*]+)`", row):
        assert defaults[argument].default == eval(value), argument
