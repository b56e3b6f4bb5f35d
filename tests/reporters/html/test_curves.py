"""Curves keep what stood out, and say what they cannot draw."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters.html._cost import cost_plots, cost_sentence, cost_table
from lightning_tuning.reporters.html._curves import clipping_plot, gradient_plot, loss_plot, steps_of
from lightning_tuning.reporters.html._pins import PLACES, pins
from lightning_tuning.reporters.html._plot import log_domain
from lightning_tuning.reporters.html._rates import rate_plot, simulated
from lightning_tuning.reporters.html._thin import MOST, points
from lightning_tuning.reporters.run_record import Block, Run, Sample

NAN, INF = math.nan, math.inf


def run(*losses: float, **content: object) -> Run:
    return Run(Path("7"), {}, blocks=[Block(i, i, 0, loss=loss) for i, loss in enumerate(losses)], **content)


def test_thinning_loses_no_extreme_and_no_step() -> None:
    generator = random.Random(1)
    blocks = [Block(i, i, 0, loss=generator.random()) for i in range(10_000)]
    blocks[4_321] = Block(4_321, 4_321, 0, loss=77.0)
    blocks[7_000] = Block(7_000, 7_000, 0, loss=NAN)
    thin = points(blocks, "loss")
    assert len(thin) == MOST
    assert max(point.high for point in thin) == 77.0
    assert min(point.low for point in thin) == min(block.loss for block in blocks if block.step != 7_000)
    assert sum(point.off for point in thin) == 1
    assert [(a.last_step + 1) for a in thin[:-1]] == [b.step for b in thin[1:]]
    whole = [block.loss for block in blocks if block.step != 7_000]
    weight = [point.last_step - point.step + 1 - point.off for point in thin]
    assert math.fsum(p.mean * w for p, w in zip(thin, weight, strict=True)) == pytest.approx(math.fsum(whole))


def test_few_points_are_all_kept() -> None:
    assert [(p.mean, p.off) for p in points([Block(0, 0, 0, loss=1.0), Block(1, 1, 0, loss=INF)], "loss")] == [
        (1.0, 0),
        (None, 1),
    ]


def test_numbers_near_the_largest_are_no_infinity() -> None:
    (point,) = points([Block(i, i, 0, loss=1.7e308) for i in range(3)], "loss", most=1)
    assert point.mean == pytest.approx(1.7e308)


def test_a_block_of_several_steps_tells_of_one_at_least() -> None:
    block = Block(0, 19, 0, count=20, loss=1.0, loss_min=0.5, loss_max=NAN)
    plot = loss_plot(Run(Path(), {}, blocks=[block]), (0, 19))
    assert "nan at at least 1 of 20 steps" in plot.remarks[0]
    assert len(plot.data["off"]) == len(plot.data["points"]) == 1


def test_a_curve_without_a_number_is_marks_alone() -> None:
    plot = loss_plot(run(NAN, INF, -INF), (0, 2))
    assert plot.data["points"] == []
    assert [row["x"] for row in plot.data["off"]] == [0, 1, 2]
    assert plot.remarks == ["training: nan, inf, -inf at 3 of 3 steps (steps 0\N{EN DASH}2), marked at the upper edge."]
    assert plot.table.rows[0][2:5] == ["\N{EN DASH}"] * 3


@pytest.mark.parametrize(
    ("values", "is_log"),
    [([1, 2], False), ([1, 29], False), ([1, 31], True), ([0, 100], False), ([-1, 100], False), ([], False)],
)
def test_log_where_it_helps(values: list[float], is_log: bool) -> None:
    assert (log_domain(values, 30) is not None) is is_log


def test_a_leap_makes_the_axis_logarithmic() -> None:
    assert '"log"' in str(loss_plot(run(1.0, 1e4), (0, 1)).spec).replace("'", '"')
    assert '"log"' not in str(loss_plot(run(1.0, 2.0), (0, 1)).spec).replace("'", '"')


def test_there_is_no_empty_axis() -> None:
    empty = Run(Path(), {})
    for plot in (loss_plot, gradient_plot, clipping_plot, rate_plot):
        drawn = plot(empty, steps_of(empty))
        assert drawn.spec is None
        assert drawn.missing.endswith(".")


def test_the_rate_is_held_against_its_schedule(run_of: Callable[[str], Run]) -> None:
    followed, left = (rate_plot(run_of(name), (0, 119)).remarks for name in ("healthy", "schedule"))
    assert followed == ["AdamW group 0 followed its schedule."]
    assert left[0].startswith("AdamW group 0 leaves its schedule at step 60: ")
    assert left[0].endswith("0.2 times that.")


@pytest.mark.parametrize(
    "schedule", [None, 3, {}, {"steps": 1, "lr": {}}, {"steps": ["a"], "lr": {"g": [1]}}, {"steps": [0], "lr": [1]}]
)
def test_a_schedule_of_another_form_is_left_out(schedule: object) -> None:
    assert simulated(schedule) == {}


def test_a_constant_rate_is_two_points() -> None:
    samples = {"lr": [Sample(step, {"g": 0.1}) for step in range(5_000)]}
    rows = rate_plot(Run(Path(), {}, samples=samples), (0, 4_999)).data["rates"]
    assert [row["x"] for row in rows] == [0, 4_999]


def test_pins_lie_where_their_step_does() -> None:
    found = [Finding("LT601", "leap", Severity.WARNING, "x", step=step) for step in range(0, 1_000, 2)]
    shown = pins(found, {place: f"f{place}" for place in range(len(found))}, (0, 998))
    assert len(shown) == PLACES
    assert sum(pin.count for pin in shown) == 500
    assert [pin.share for pin in shown] == [pytest.approx(100 * pin.step / 998, abs=0.001) for pin in shown]
    assert shown[0].severity == "warning"


@pytest.mark.parametrize("step", [None, 5, -1])
def test_findings_off_the_axis_have_no_pin(step: int | None) -> None:
    assert pins([Finding("LT601", "leap", Severity.INFO, "x", step=step)], {0: "f0"}, (0, 4)) == []


def test_a_run_of_one_step_has_its_pin_in_the_middle() -> None:
    (pin,) = pins([Finding("LT601", "leap", Severity.INFO, "x", step=3)], {0: "f0"}, (3, 3))
    assert pin.share == 50.0


def test_what_the_suite_cost() -> None:
    values = {"ours_us_per_step": 130.0, "step_us": 2_600.0, "ours_share": 0.05, "rss_mb": 900.0}
    costly = Run(Path(), {}, samples={"cost": [Sample(step, values) for step in (20, 520, 1_020)]})
    assert cost_sentence(costly) == "The suite took 5 % of the time of a step (130 of 2,600 µs)."
    assert [row[:3] for row in cost_table(costly).rows] == [
        ["ours", "µs per step", "130"],
        ["step", "µs", "2,600"],
        ["ours", "%", "5"],
        ["rss", "MB", "900"],
    ]
    assert [plot.title for plot in cost_plots(costly, (0, 1_020))] == ["Time", "Time", "Share of the time", "Memory"]
    assert cost_plots(Run(Path(), {}), (0, 0)) == []
    assert cost_table(Run(Path(), {})) is None
