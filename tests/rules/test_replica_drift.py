"""LT905 as a pure verdict."""

from __future__ import annotations

import json
import math

import pytest

from lightning_tuning.findings import Severity
from lightning_tuning.rules.replica_drift import replica_drift


@pytest.mark.parametrize(
    ("names", "fingerprints"),
    [
        ([], []),
        ([], [[], []]),
        (["w"], [[3]]),
        (["w"], [[0], [0]]),
        (["w", "b"], [[-1, 5], [-1, 5], [-1, 5]]),
    ],
)
def test_equal_replicas_have_no_finding(names: list[str], fingerprints: list[list[int]]) -> None:
    assert replica_drift(names, fingerprints) is None


@pytest.mark.parametrize(
    ("fingerprints", "where", "ranks", "parameters"),
    [
        ([[1, 2], [1, 3]], "b", "1", 1),
        ([[1, 2], [4, 3]], "w", "1", 2),
        ([[1, 2], [0, 2], [0, 2]], "w", "0", 1),  # the majority is right
        ([[1, 2], [1, 2], [1, 9], [1, 2]], "b", "2", 1),
        ([[1, 2], [1, 2], [1, 9], [1, 8]], "b", "2, 3", 1),
        ([[1, 1], [1, 1], [1, 9], [1, 9]], "b", "2, 3", 1),  # a draw: rank 0's is the one that is saved
        ([[1, 9], [1, 1], [1, 1], [1, 9]], "b", "1, 2", 1),
    ],
)
def test_who_differs_and_where(fingerprints: list[list[int]], where: str, ranks: str, parameters: int) -> None:
    finding = replica_drift(["w", "b"], fingerprints)
    assert finding is not None
    assert (finding.code, finding.severity, finding.where) == ("LT905", Severity.ERROR, where)
    assert finding.evidence == {"parameters": parameters, "ranks": ranks, "world": len(fingerprints)}


def test_the_sentence() -> None:
    finding = replica_drift(["w", "b"], [[1, 2], [4, 3], [1, 2]], when="after step 500", norms=[[1, 1], [2, 1], [1, 1]])
    assert finding is not None
    assert finding.message == (
        "2 of 2 parameters, w first, differ between ranks after step 500: on rank 1 from rank 0 (norms 2 and 1)"
    )
    assert (finding.evidence["norm"], finding.evidence["norm_elsewhere"]) == (2, 1)


def test_norms_that_are_no_numbers() -> None:
    finding = replica_drift(["w"], [[1], [2]], norms=[[math.nan], [math.inf]])
    assert finding is not None
    assert "norms inf and nan" in finding.message
    json.dumps(finding.to_dict(), allow_nan=False)


def test_many_ranks_are_not_all_listed() -> None:
    finding = replica_drift(["w"], [[0]] * 20 + [[i] for i in range(1, 15)])
    assert finding is not None
    assert "on ranks 20, 21, 22, 23, 24, 25, 26, 27, ... from rank 0" in finding.message
