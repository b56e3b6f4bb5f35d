"""Every net of the zoo learns, and nothing is held against it: no warning anywhere, next to no advice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from lightning_tuning import Severity
from tests.quiet.runs import SETTLED, outcome
from tests.quiet.zoo import Net, nets

NETS = nets()
MOST_INFOS = 3  # in one run
RAREST = 0.05  # the share of nets that may hear one and the same info
PAST_THE_PLATEAU = 8  # nets that run on three times as long as it takes them to get there


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where a run's outcome is left for the other tests of this session, in whatever process they run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "quiet"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("net", NETS, ids=str)
def test_it_learns_and_nothing_is_held_against_it(net: Net, outcomes: Path) -> None:
    done = outcome(net, outcomes)
    assert net.goal.is_met_by(done.value), f"{net.goal}, got {done.value:.4g}"
    assert not net.settles or done.unsettled < SETTLED
    assert done.at_least(Severity.WARNING) == []
    assert [note for note in done.notes if " failed (" in note] == []
    infos = done.at_least(Severity.INFO)
    assert len(infos) <= MOST_INFOS, "\n".join(infos)
    assert done.progress not in ("flat", "diverging")


def test_no_info_is_heard_often(outcomes: Path) -> None:
    hearing = defaultdict(set)
    for net in NETS:  # those that no test has run yet are run now
        for code in outcome(net, outcomes).codes(Severity.INFO):
            hearing[code].add(net.name)
    often = {code: sorted(names) for code, names in hearing.items() if len(names) >= RAREST * len(NETS)}
    assert often == {}


def test_the_zoo_is_large_and_its_names_are_its_own() -> None:
    names = [net.name for net in NETS]
    assert len(names) >= 36
    assert len(set(names)) == len(names)
    assert sum(net.settles for net in NETS) >= PAST_THE_PLATEAU
