"""Readings become lines that stay few, and lose neither a mean nor what is not a number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_tuning.measure import Reading
from lightning_tuning.recording._blocks import StepBlocks, block_size
from lightning_tuning.recording._samples import Samples
from lightning_tuning.reporters.json_lines import JsonLines
from lightning_tuning.reporters.run_folder import READINGS, read_run
from lightning_tuning.reporters.run_record import Block

NAN, INF = math.nan, math.inf


def blocks_of(folder: Path, readings: list[Reading], *, seconds: float = 0.0, **settings: Any) -> list[Block]:
    """What is read back of ``readings``, with ``seconds`` from one to the next."""
    lines = JsonLines(folder / READINGS, "lightning-tuning/readings")
    blocks = StepBlocks(lines.add, **settings)
    for number, reading in enumerate(readings):
        blocks.take(reading, number * seconds)
    blocks.close()
    lines.close()
    run = read_run(folder)
    assert [problem for problem in run.problems if READINGS in problem] == []
    return list(run.blocks)


def of_losses(*losses: float | None, start: int = 10_000) -> list[Reading]:
    return [Reading(start + i, 3, loss, 0, 1.0) for i, loss in enumerate(losses)]


def same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.0, 3.0], (2.0, 1.0, 3.0)),
        ([1.0], (1.0, 1.0, 1.0)),
        ([1.0, NAN, 3.0], (2.0, 1.0, NAN)),
        ([NAN, INF], (NAN, NAN, NAN)),
        ([INF, NAN, 2.0], (2.0, 2.0, NAN)),
        ([INF, 2.0], (2.0, 2.0, INF)),
        ([-INF, 2.0], (2.0, 2.0, -INF)),
        ([-INF, INF], (INF, INF, INF)),
        ([0.0, 0.0], (0.0, 0.0, 0.0)),
        ([-1e300, 1e-300], (-5e299, -1e300, 1e-300)),
        ([None, 4.0], (4.0, 4.0, 4.0)),
        ([None], (None, None, None)),
    ],
)
def test_mean_least_and_greatest(losses: list[float | None], told: tuple[float | None, ...], tmp_path: Path) -> None:
    (block,) = blocks_of(tmp_path, of_losses(*losses))
    assert all(map(same, (block.loss, block.loss_min, block.loss_max), told)), block
    assert (block.step, block.last_step, block.count, block.epoch) == (10_000, 9_999 + len(losses), len(losses), 3)


def test_a_gradient_that_is_not_finite_stays_visible(tmp_path: Path) -> None:
    readings = [Reading(5_000 + i, 0, 1.0, 0, norm) for i, norm in enumerate((2.0, INF, 4.0))]
    (block,) = blocks_of(tmp_path, readings, clip=1.0)
    assert (block.grad_norm, block.grad_norm_max, block.clipped) == (3.0, INF, 1.0)


def test_steps_share_lines_the_longer_the_run_is(tmp_path: Path) -> None:
    steps = 12_000
    blocks = blocks_of(tmp_path, [Reading(step, 0, 1.0, 0, 1.0) for step in range(steps)])
    assert len(blocks) == 1_000 + 900 + 20
    assert sum(block.count for block in blocks) == steps
    assert all(block.step % block_size(block.step) == 0 for block in blocks)
    assert all(block.last_step - block.step + 1 == block_size(block.step) for block in blocks)
    assert (tmp_path / READINGS).stat().st_size < 300_000


def test_a_block_of_slow_steps_does_not_wait_to_be_full(tmp_path: Path) -> None:
    readings = [Reading(10_000 + i, 0, 1.0, 0, 1.0) for i in range(100)]
    assert [block.count for block in blocks_of(tmp_path, readings, seconds=1.0)] == [5] * 20


def test_batches_of_one_step_are_one_block(tmp_path: Path) -> None:
    batches = [Reading(step, 0, loss, 0 if last else None, 1.0 if last else None)
               for step, loss, last in ((0, 1.0, False), (0, 3.0, True), (1, 5.0, False), (1, 7.0, True))]  # fmt: skip
    one, other = blocks_of(tmp_path, batches)
    assert (one.loss, one.count, one.optimizer, one.grad_norm) == (2.0, 1, 0, 1.0)
    assert (other.loss, other.loss_min, other.loss_max) == (6.0, 5.0, 7.0)


def test_each_optimizer_has_blocks_of_its_own(tmp_path: Path) -> None:
    readings = [Reading(step, 0, None, step % 2, 1.0 + step % 2) for step in range(2_000, 2_040)]
    blocks = blocks_of(tmp_path, readings, several=True)
    assert {(block.optimizer, block.grad_norm, block.count) for block in blocks} == {(0, 1.0, 5), (1, 2.0, 5)}
    assert len(blocks) == 8


def test_clipping_is_counted_by_the_bound_of_the_step(tmp_path: Path) -> None:
    readings = [
        Reading(5_000 + i, 0, 1.0, 0, norm, clip=clip) for i, (norm, clip) in enumerate([(3.0, 2.0), (1.0, 2.0)])
    ]
    assert [(b.clip, b.clipped) for b in blocks_of(tmp_path, readings, clip=9.0)] == [(2.0, 0.5)]


def test_without_a_bound_nothing_is_clipped(tmp_path: Path) -> None:
    (block,) = blocks_of(tmp_path, of_losses(1.0))
    assert (block.clip, block.clipped) == (None, None)


def kept(steps: range, names: int = 1) -> list[int]:
    lines: list[dict[str, Any]] = []
    samples = Samples(lines.append, every_n_steps=50)
    for step in steps:
        samples.take("grad_norm", step, 0, 0.0, {f"net.{i}": 1.0 for i in range(names)})
    return [line["step"] for line in lines]


def test_samples_grow_rare() -> None:
    assert kept(range(300)) == [0, 50, 100, 150, 200, 250]
    steps = kept(range(0, 200_000, 7))
    assert len(steps) < 500
    assert steps[-1] - steps[-2] == pytest.approx(2_000, rel=0.05)


def test_samples_of_many_names_are_rarer() -> None:
    assert kept(range(1_000), names=1_000) == [0, 250, 500, 750]


def test_series_are_counted_apart() -> None:
    lines: list[dict[str, Any]] = []
    samples = Samples(lines.append, every_n_steps=50)
    for series in (0, 1, 0, 1):
        samples.take("grad_norm", 3, None, 0.0, {"net.0": NAN}, series=series)
    assert len(lines) == 2
    assert "epoch" not in lines[0]
    assert not samples.take("lr", 3, None, 0.0, {}, every=0)
    assert json.dumps(lines[0]["values"]) == '{"net.0": NaN}'  # JsonLines makes it a text
