"""The run folders that other tests read are what they are said to be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lightning_tuning.reporters.run_folder import read_run
from tests.run_folders import INJECTIONS, MAKERS, NAMES, make


@pytest.mark.parametrize("name", MAKERS)
def test_every_folder_is_of_the_schema(tmp_path: Path, name: str) -> None:
    run = read_run(make(name, tmp_path))
    told = [problem for problem in run.problems if "cannot be read" not in problem]
    assert told == []
    assert len(run.problems) == (2 if name == "killed" else 0)
    assert bool(run.blocks) is (name != "empty")
    assert (run.model is None) is (name in ("empty", "no_model"))


def test_the_long_run_is_thinned(tmp_path: Path) -> None:
    run = read_run(make("long", tmp_path))
    assert sum(block.count for block in run.blocks) == 10_000
    assert [block.count for block in run.blocks[998:1002]] == [1, 1, 20, 20]
    assert all(block.last_step + 1 == after.step for block, after in zip(run.blocks, run.blocks[1:], strict=False))
    assert len(run.samples["dead_units"][0].values) == 200


def test_every_curve_has_every_number_that_json_lacks(tmp_path: Path) -> None:
    run = read_run(make("not_numbers", tmp_path))
    for kind in ("lr", "update_ratio", "validation", "dead_units", "logged"):
        some = {str(value) for sample in run.samples[kind] for value in sample.values.values()}
        assert "nan" in some, kind
    assert {"nan", "inf", "-inf"} <= {str(block.loss) for block in run.blocks}
    assert any(math.isfinite(block.loss or 0) for block in run.blocks)


@pytest.mark.parametrize(("name", "texts"), [("injection", INJECTIONS), ("names", NAMES)])
def test_names_are_everywhere_and_come_back_as_they_were(tmp_path: Path, name: str, texts: tuple[str, ...]) -> None:
    run = read_run(make(name, tmp_path))
    assert {finding.where for finding in run.findings} == {*texts}
    assert {*run.notes} == {*texts} == {*run.samples["dead_units"][0].values}
    assert run.model is not None
    assert {node.module for node in run.model.nodes} <= {*texts}


def test_counts(tmp_path: Path) -> None:
    assert len(read_run(make("three_findings", tmp_path / "3")).findings) == 3
    assert len(read_run(make("many_findings", tmp_path / "3000")).findings) == 3_000
    assert {block.optimizer for block in read_run(make("several_optimizers", tmp_path / "o")).blocks} == {0, 1, 2}
