"""LT902: modules among the hyperparameters."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
from lightning.fabric.utilities.data import AttributeDict
from torch import nn

from lightning_tuning.rules.module_in_hparams import modules_in_hparams

NET = nn.Linear(2, 3)


@pytest.mark.parametrize(
    ("hparams", "where"),
    [
        (None, []),
        ({}, []),
        ("text", []),
        (Namespace(lr=0.1), []),
        ({"lr": 0.1, "layers": [1, 2], "cls": nn.Linear, "act": "relu"}, []),
        ({"net": NET}, ["hparams.net"]),
        (AttributeDict(net=NET), ["hparams.net"]),
        ({"a": {"b": [1, NET]}}, ["hparams.a.b.1"]),
        ({"a": NET, "b": NET}, ["hparams.a"]),
        ({"a": NET, "b": nn.Linear(1, 1)}, ["hparams.a", "hparams.b"]),
    ],
)
def test_verdict(hparams: Any, where: list[str]) -> None:
    found = list(modules_in_hparams(hparams, "Net"))
    assert [finding.where for finding in found] == where
    assert all(str(finding.severity) == "warning" for finding in found)


def test_a_module_without_weights_is_an_info() -> None:
    (found,) = modules_in_hparams({"loss": nn.CrossEntropyLoss()}, "Net")
    assert str(found.severity) == "info"
    assert 'ignore=["loss"]'.replace('"', "'") in found.remedy


def test_lazy_weights_have_no_size() -> None:
    (found,) = modules_in_hparams({"net": nn.LazyLinear(2)}, "Net")
    assert found.evidence["weights"] == 0


def test_hparams_that_hold_themselves() -> None:
    endless: dict[str, Any] = {"net": NET}
    endless["self"] = endless
    assert [finding.where for finding in modules_in_hparams(endless, "Net")] == ["hparams.net"]
