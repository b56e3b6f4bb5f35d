"""Maps of layers by steps: in the order of the model, in few columns, with nothing dropped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_tuning.reporters.html._heat_drawing import colour_domain
from lightning_tuning.reporters.html._heat_maps import heat_maps
from lightning_tuning.reporters.html._kinds import MAPS
from lightning_tuning.reporters.html._layers import COLUMNS, grid_of, labels
from lightning_tuning.reporters.run_record import Run, Sample


def test_rows_have_the_order_of_the_model(run_of: Callable[[str], Run]) -> None:
    run = run_of("deep")
    shuffled = [Sample(0, dict(sorted(run.samples["update_ratio"][0].values.items())))]
    assert grid_of(shuffled, run.model, log=True).layers == [f"encoder.layers.{i}.ff.weight" for i in range(200)]


def test_columns_cover_the_steps_without_a_gap() -> None:
    samples = [Sample(step, {"a": 1.0}) for step in [*range(0, 200, 16), *range(200, 10_000, 50)]]
    grid = grid_of(samples, None, log=False)
    assert len(grid.columns) <= COLUMNS
    assert [column[1] for column in grid.columns[:-1]] == [column[0] for column in grid.columns[1:]]
    assert sum(column[3] for column in grid.columns) == len(samples)


def test_what_is_not_finite_keeps_its_cell_and_is_counted() -> None:
    samples = [Sample(step, {"a": math.nan if step == 3 else 1.0, "b": 2.0}) for step in range(200)]
    grid = grid_of(samples, None, log=False)
    assert grid.off == [1, 0]
    assert math.isnan(grid.cells[0][0])
    assert grid.cells[1][0] == 2.0


def test_a_layer_that_was_not_looked_at_has_no_cell() -> None:
    grid = grid_of([Sample(0, {"a": 1.0}), Sample(50, {"b": 1.0})], None, log=False)
    assert grid.cells == [[1.0, None], [None, 1.0]]


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [0.0, 1.0], [1e-30, 1.0], [-1.0, 1.0], [5.0, 5.0]])
@pytest.mark.parametrize("kind", MAPS, ids=lambda kind: kind.kind)
def test_colours_stand_at_rising_values(kind, values: list[float]) -> None:
    domain, log = colour_domain(kind, values)
    assert len(domain) == 5
    assert all(low < high for low, high in itertools.pairwise(domain))
    assert not log or domain[0] > 0


def test_one_tiny_value_leaves_the_colours_to_the_others() -> None:
    domain, _ = colour_domain(next(kind for kind in MAPS if kind.kind == "grad_norm"), [1e-30, 0.5, 1.0])
    assert domain[0] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["net.0", "net.2"], ["net.0", "net.2"]),
        (["a.b.c.d.e.f.g.0.out_proj", "a.b.c.d.e.f.g.1.out_proj.x"], ["…0.out_proj", "…1.out_proj.x"]),
        (["the.only.one.of.them.is.long"], ["the.only.on…em.is.long"]),
        (["emb.weight", "encoder.layers.7.self_attn.in_proj_weight"], ["emb.weight", "…7…in_proj_weight"]),
        ([], []),
    ],
)
def test_names_are_told_apart(names: list[str], shown: list[str]) -> None:
    assert labels(names) == shown


def test_few_looks_are_dots_and_many_are_cells() -> None:
    def mark(count: int) -> str:
        samples = {"dead_units": [Sample(step, {"a": 0.5}) for step in range(count)]}
        plot = next(plot for plot in heat_maps(Run(Path(), {}, samples=samples)) if plot.name == "dead_units")
        return str(plot.spec)

    assert "'point'" in mark(1)
    assert "'point'" in mark(2)
    assert "'rect'" in mark(3)


def test_more_layers_than_a_screen_has_rows_are_said() -> None:
    samples = {"dead_units": [Sample(step, {f"net.{i}": 0.5 for i in range(1_500)}) for step in range(3)]}
    plot = next(plot for plot in heat_maps(Run(Path(), {}, samples=samples)) if plot.name == "dead_units")
    assert plot.remarks == ["Shown are the first 1,000 of 1,500 rows."]
    assert len(plot.data["cells"]) == 1_000
