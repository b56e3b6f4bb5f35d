"""The picture of the model: arrows point down, boxes keep apart, repeats are counted, findings are pinned."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters.html._blocks import GLANCE, charted, overview
from lightning_tuning.reporters.html._cards import LISTED, OPEN, anchors_of, cards
from lightning_tuning.reporters.html._layout import laid_out
from lightning_tuning.reporters.html._picture import picture
from lightning_tuning.reporters.run_record import ModelMap, Node, Run


def transformer(layers: int) -> ModelMap:
    names = [
        "embed",
        *(f"layers.{i}.{name}" for i in range(layers) for name in ("norm", "attn", "mlp.0", "mlp.2")),
        "head",
    ]
    nodes = tuple(Node(name, "Linear", ("linear",), (8, 16), 272) for name in names)
    chain = [(i, i + 1) for i in range(len(nodes) - 1)]
    return ModelMap(nodes, tuple(chain + [(4 * i, 4 * i + 3) for i in range(layers)]))


def found(where: str, code: str = "LT608", severity: Severity = Severity.WARNING) -> Finding:
    return Finding(code, "dead-units", severity, "71 of 128", where=where)


@pytest.mark.parametrize("seed", range(5))
def test_arrows_point_down_and_boxes_keep_apart(seed: int) -> None:
    generator = random.Random(seed)
    count = 40
    arrows = sorted({tuple(sorted(generator.sample(range(count), 2))) for _ in range(70)})
    layout = laid_out(count, arrows)
    assert layout.left_out == 0
    for (start, end), path in zip(arrows, layout.arrows, strict=True):
        assert (path[0], path[-1]) == (layout.boxes[start], layout.boxes[end])
        assert [layer for _, layer in path] == list(range(layout.boxes[start][1], layout.boxes[end][1] + 1))
    rows: dict[int, list[tuple[float, float]]] = {}
    for across, layer in layout.boxes:
        rows.setdefault(layer, []).append((across - 0.5, across + 0.5))
    for path in layout.arrows:
        for across, layer in path[1:-1]:
            rows[layer].append((across, across))
    for row in rows.values():
        for (_, right), (left, _) in itertools.pairwise(sorted(row)):
            assert left >= right - 1e-9
    assert min(across for across, _ in layout.boxes) >= 0.5 - 1e-9
    assert max(across for across, _ in layout.boxes) <= layout.width - 0.5 + 1e-9


def test_a_net_that_links_everything_loses_its_longest_arrows_and_says_so() -> None:
    layout = laid_out(120, [(a, b) for a in range(120) for b in range(a + 1, 120)])
    assert layout.left_out > 0
    assert len(layout.arrows) + layout.left_out == 120 * 119 // 2


def test_nothing_is_laid_out() -> None:
    assert laid_out(0, []).layers == 0


@pytest.mark.parametrize("layers", [1, 6, 50])
def test_layers_that_are_alike_are_one_box(layers: int) -> None:
    chart = overview(transformer(layers))
    assert len(chart.parts) <= GLANCE
    assert sum(len(part.modules) for part in chart.parts) == 2 + 4 * layers
    if layers == 50:
        assert [(part.name, part.count) for part in chart.parts] == [
            ("embed", 1),
            ("layers.0\N{EN DASH}49", 50),
            ("head", 1),
        ]
        assert chart.arrows == [(0, 1), (1, 2)]


def test_a_small_net_is_shown_whole() -> None:
    model = transformer(3)
    assert overview(model) == charted(model)


@pytest.mark.parametrize(
    ("where", "home"),
    [
        ("layers.0.attn", "layers.0.attn"),
        ("layers.0.attn.in_proj_weight", "layers.0.attn"),
        ("layers.1.mlp", "layers.1.mlp.0"),
        ("nowhere", None),
        ("", None),
    ],
)
def test_a_finding_is_pinned_at_its_module(where: str, home: str | None) -> None:
    drawn = picture(charted(transformer(2)), [found(where)], {0: "finding-0"})
    pinned = [box.part.name for box in drawn.boxes if box.badge]
    assert pinned == ([] if home is None else [home])


def test_a_badge_is_of_the_worst_and_counts_the_others() -> None:
    findings = [found("layers.3.norm", "LT701", Severity.ERROR), *(found(f"layers.{i}.attn") for i in range(50))]
    drawn = picture(overview(transformer(50)), findings, {place: f"finding-{place}" for place in range(51)})
    (badge,) = [box.badge for box in drawn.boxes if box.badge]
    assert (badge.severity, badge.text, badge.anchor) == ("error", "LT701 +1", "finding-0")
    assert "LT608" in badge.title


def test_edges_that_point_back_are_left_out() -> None:
    nodes = (Node("a", "A"), Node("b", "B"))
    assert charted(ModelMap(nodes, ((0, 1), (1, 0), (1, 1)))).arrows == [(0, 1)]


def test_findings_of_one_code_share_a_card(run_of: Callable[[str], Run]) -> None:
    made = cards(run_of("many_findings"))
    assert [card.severity for card in made] == ["error", "error", "warning", "warning", "info"]
    assert all((len(card.entries), len(card.folded), card.left) == (OPEN, 597, 0) for card in made)
    assert all(card.remedy for card in made)


def test_suspects_of_the_diagnosis_come_first_and_say_so(run_of: Callable[[str], Run]) -> None:
    made = cards(run_of("sick"))
    assert [card.code for card in made] == ["LT314", "LT701", "LT601", "LT608", "LT405"]
    assert made[0].entries[0].causes[0].startswith("Likely cause 1 of")
    assert made[1].entries[0].causes == []


def test_each_card_tells_its_rule(run_of: Callable[[str], Run]) -> None:
    for card in cards(run_of("sick")):
        assert card.rule is not None
        assert card.rule.code == card.code
        assert card.silence == f'TuningSuite(ignore=["{card.code}"])'


def test_a_code_that_is_unknown_has_no_rule() -> None:
    (card,) = cards(Run(Path(), {}, [found("net", code="LT000")]))
    assert card.rule is None


def test_beyond_what_is_listed_findings_are_counted() -> None:
    rare = [found(f"net.{i}", "LT701", Severity.ERROR) for i in range(10)]
    run = Run(Path(), {}, [*rare, *(found(f"net.{i}") for i in range(LISTED + 500))])
    assert len(anchors_of(run)) == LISTED
    first, second = cards(run)
    assert (first.count, first.left) == (10, 0)
    assert (second.count, second.left) == (LISTED + 500, 510)


def test_remedies_that_differ_stand_at_their_places() -> None:
    findings = [Finding("LT601", "leap", Severity.INFO, "x", where=f"net.{i}", remedy=f"take {i}") for i in range(2)]
    (card,) = cards(Run(Path(), {}, findings))
    assert card.remedy == ""
    assert [entry.remedy for entry in card.entries] == ["take 0", "take 1"]
