"""LT903 as a pure verdict."""

from __future__ import annotations

import json

import pytest

from lightning_tuning.findings import Severity
from lightning_tuning.rules.non_finite_checkpoint import LT903, non_finite_checkpoint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["w"], "w is not finite: e.ckpt was not written"),
        (["w", "b"], "w, b are not finite: e.ckpt was not written"),
        (["w", "b", "c", "d", "e"], "w, b, c and 2 more are not finite: e.ckpt was not written"),
    ],
)
def test_names(names: list[str], message: str) -> None:
    finding = non_finite_checkpoint(names, path="some/folder/e.ckpt")
    assert finding.message == message
    assert finding.where == "w"
    assert finding.severity is Severity.ERROR
    assert finding.evidence == {"tensors": len(names), "step": 0, "path": "some/folder/e.ckpt"}
    assert finding.remedy == LT903.remedy
    assert json.loads(json.dumps(finding.to_dict(), allow_nan=False))["code"] == "LT903"


def test_what_stays_is_the_way_on() -> None:
    finding = non_finite_checkpoint(["w"], path="a/new.ckpt", kept="a/old.ckpt", step=7)
    assert finding.message.endswith("new.ckpt was not written, old.ckpt stays")
    assert "ckpt_path='a/old.ckpt'" in finding.remedy
    assert finding.evidence["kept"] == "a/old.ckpt"
    assert finding.evidence["step"] == 7


def test_nothing_known_of_the_file() -> None:
    assert non_finite_checkpoint(["w"]).message == "w is not finite: a checkpoint was not written"


def test_nothing_broken() -> None:
    with pytest.raises(ValueError, match="`names` must name"):
        non_finite_checkpoint([])
