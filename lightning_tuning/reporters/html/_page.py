"""The page: everything that stands in it, and the templates that it is made of."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert

from lightning_tuning.reporters.html._blocks import overview
from lightning_tuning.reporters.html._cards import anchors_of, cards
from lightning_tuning.reporters.html._cost import cost_plots, cost_sentence, cost_table
from lightning_tuning.reporters.html._curves import clipping_plot, gradient_plot, loss_plot, steps_of
from lightning_tuning.reporters.html._facts import about, facts, metrics, trials
from lightning_tuning.reporters.html._heat_maps import heat_maps
from lightning_tuning.reporters.html._picture import HEIGHT, WIDTH, Picture, picture
from lightning_tuning.reporters.html._pins import pin_rows, pins
from lightning_tuning.reporters.html._plot import EXTENT, RIGHT
from lightning_tuning.reporters.html._rates import rate_plot
from lightning_tuning.reporters.html._safe import digest, json_text, script_text, shown
from lightning_tuning.reporters.html._verdict import headline
from lightning_tuning.reporters.html._words import clip, parts, plural
from lightning_tuning.reporters.run_record import Run

__all__ = ["page"]

SNIPPET = "window.vegaEmbed = vegaEmbed;"
"""All that the page's script takes from the bundle."""
MOST_BOXES = 600
"""In the larger picture of the model: each takes half a kilobyte."""
SEVERITIES = ("error", "warning", "info")


def page(run: Run) -> str:
    """The whole page of ``run``."""
    steps = steps_of(run)
    anchors = anchors_of(run)
    pinned = pins(run.findings, anchors, steps)
    curves = [plot(run, steps) for plot in (loss_plot, gradient_plot, clipping_plot, rate_plot)]
    maps = heat_maps(run)
    costs = cost_plots(run, steps)
    bundle, script = _bundle(), script_text(_static("report.js"))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            verdict=headline(run),
            counts={
                severity: sum(str(found.severity) == severity for found in run.findings) for severity in SEVERITIES
            },
            cards=cards(run),
            diagnosis=run.diagnosis,
            anchor_by_key={found.key: anchors[place] for place, found in enumerate(run.findings) if place in anchors},
            curves=curves,
            maps=maps,
            pins=pinned,
            lane={"left": EXTENT, "right": RIGHT},
            steps=steps,
            pictures=_pictures(run, anchors),
            box={"width": WIDTH, "height": HEIGHT},
            cost=cost_table(run),
            costs=costs,
            cost_sentence=cost_sentence(run),
            metrics=metrics(run),
            trials=trials(run),
            facts=facts(run),
            about=about(run),
            plots=_plots([*curves, *maps, *costs], pin_rows(pinned)),
            bundle=bundle,
            script=script,
            style=script_text(_static("report.css")),
            policy=f"default-src 'none'; script-src {digest(bundle)} {digest(script)}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'",
        )
    )


def _pictures(run: Run, anchors: Mapping[int, str]) -> dict[str, Picture | None]:
    """The model at a glance, and all of its blocks where that is more."""
    if run.model is None or not run.model.nodes:
        return {"overview": None, "whole": None}
    few, more = overview(run.model), overview(run.model, MOST_BOXES)
    is_more = len(few.parts) < len(more.parts)
    return {
        "overview": picture(few, run.findings, anchors),
        "whole": picture(more, run.findings, anchors) if is_more else None,
    }


def _plots(plots: list[Any], pinned: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's script draws: specifications and data by the name of their element."""
    return {
        plot.name: {"spec": plot.spec, "data": {**plot.data, "pins": pinned}} for plot in plots if plot.spec is not None
    }


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_tuning.reporters.html"),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"parts": parts, "json_text": json_text, "clip": clip, "plural": plural}
    return environment


def _static(name: str) -> str:
    return (files("lightning_tuning.reporters.html") / "static" / name).read_text(encoding="utf-8")


@functools.cache  # it is put together anew each time, which takes seconds
def _bundle() -> Any:
    return script_text(vl_convert.javascript_bundle(SNIPPET))
