"""Arguments of the suite's members from outside."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_tuning import TuningSuite, UpdateMonitor


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


def test_checks_only() -> None:
    rooms = {type(m).__module__.split(".")[1] for m in TuningSuite(checks_only=True).members}
    assert rooms == {"checks"}
