"""Arguments of the suite's members from outside."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from lightning_tuning import CATALOGUE, GradientExplosionMonitor, TuningSuite, UpdateMonitor
from lightning_tuning.rules._update_ratios import WeightUpdate
from tests.contracts.discovery import CALLBACKS


def member(suite: TuningSuite, kind: type) -> Any:
    return next(m for m in suite.members if isinstance(m, kind))


def test_a_member_gets_its_arguments() -> None:
    suite = TuningSuite(options={"UpdateMonitor": {"every_n_steps": 7}})
    assert member(suite, UpdateMonitor).every_n_steps == 7
    assert member(TuningSuite(), UpdateMonitor).every_n_steps != 7


def test_what_the_suite_gives_a_member_itself_stays_or_is_replaced() -> None:
    kind = type(next(m for m in TuningSuite().members if type(m).__name__ == "DropoutBNConflictWarning"))
    assert member(TuningSuite(options={"DropoutBNConflictWarning": {}}), kind).severity.name == "INFO"
    options = {"DropoutBNConflictWarning": {"severity": "warning"}}
    assert member(TuningSuite(options=options), kind).severity.name == "WARNING"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"UpdateMonitr": {}}, "has 'UpdateMonitr', which is no member of the suite. Did you mean 'UpdateMonitor'?"),
        ({"Qqq": {}}, "`options` has 'Qqq', which is no member of the suite. Known are: DataCheck, "),
        ({"UpdateMonitor": {"every_n_step": 7}}, "has UpdateMonitor.every_n_step, .* Did you mean 'every_n_steps'?"),
        ({"UpdateMonitor": {"every_n_steps": 0}}, r"`options\['UpdateMonitor'\]`: `every_n_steps` must be"),
        ({"UpdateMonitor": 7}, r"`options\['UpdateMonitor'\]` must be a table of arguments, got 7"),
    ],
)  # fmt: skip
def test_what_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuningSuite(options=options)


def test_a_threshold_is_an_argument_of_the_member_that_speaks_of_the_rule() -> None:
    suite = TuningSuite(
        thresholds={"LT601": {"ratio": 20}, "update-too-small": {"too_small": 1e-7}},
        options={"UpdateMonitor": {"every_n_steps": 7}, "GradientExplosionMonitor": {"z": 3.0}},
    )
    explosion, update = member(suite, GradientExplosionMonitor), member(suite, UpdateMonitor)
    assert (explosion._settings["ratio"], explosion._settings["z"]) == (20, 3.0)
    assert (update.too_small, update.every_n_steps) == (1e-7, 7)
    assert update.too_large == UpdateMonitor().too_large


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"LT601": {"ratoi": 2}}, r"`thresholds\['LT601'\]` has 'ratoi', .* Did you mean 'ratio'?"),
        ({"LT601": {"qqq": 2}}, "Known are: window, ratio, z, spread"),
        ({"LT601": 2}, r"`thresholds\['LT601'\]` must be a table of window, ratio, z, spread, got 2"),
        ({"LT601": {"ratio": 0.5}}, r"`options\['GradientExplosionMonitor'\]`: `ratio` must be"),
        ({"LT701": {"ratio": 2}}, "has 'LT701', whose threshold cannot be set. Those that can: LT508, LT601, LT602, "),
        ({"LT6001": {"ratio": 2}}, "`thresholds` has 'LT6001'. There is no rule 'LT6001'. Nearest: LT601"),
        ({"LT604": {"too_large": 2}}, r"UpdateMonitor.too_large is set twice: in `options` and in `thresholds\['LT604"),
    ],
)  # fmt: skip
def test_what_is_no_threshold(thresholds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuningSuite(thresholds=thresholds, options={"UpdateMonitor": {"too_large": 1.0}})


def test_every_threshold_is_a_number_of_its_class_which_speaks_of_the_rule() -> None:
    found = [(kind, code, argument) for kind in CALLBACKS.values() for code, argument in kind.thresholds]
    assert len({(code, argument) for _, code, argument in found}) == len(found) >= 10
    for kind, code, argument in found:
        assert type(inspect.signature(kind).parameters[argument].default) in (int, float)
        assert code in CATALOGUE[code].code
        assert code in str(kind.__doc__)


def test_a_threshold_decides_on_its_rule() -> None:
    def codes(**arguments: Any) -> set[str]:
        suite = TuningSuite(options={"UpdateMonitor": {"every_n_steps": 2}}, select=["LT604", "LT605"], **arguments)
        monitor = member(suite, UpdateMonitor)
        found = [monitor._large.judge(step, {"net.weight": WeightUpdate(0.4)}) for step in range(50, 400, 50)]
        return {finding.code for finding in found if finding is not None}

    assert codes() == {"LT604"}
    assert codes(thresholds={"LT604": {"too_large": 0.5}}) == set()


def test_checks_only() -> None:
    rooms = {type(m).__module__.split(".")[1] for m in TuningSuite(checks_only=True).members}
    assert rooms == {"checks"}
