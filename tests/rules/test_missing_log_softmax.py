from __future__ import annotations

import pytest
import torch

from lightning_tuning.rules.missing_log_softmax import no_log_probabilities, no_probabilities
from lightning_tuning.trace import Op

LOSS = Op(4, "nll_loss", "net.loss", "NLLLoss", "train.py:7", (1, 2), (3,))
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("off", "largest", "found"),
    [
        (0.0, -0.1, False),
        (0.02, 0.0, False),  # bf16
        (0.1, -1.0, False),
        (1.1, 0.4, True),
        (1.1, -0.4, True),
        (INF, INF, True),
        (NAN, NAN, False),  # LT701's
    ],
)
def test_log_probabilities_sum_to_one(off, largest, found):
    finding = no_log_probabilities(LOSS, off, largest)
    assert (finding is not None) is found
    if finding is not None:
        assert (finding.where, finding.source_line, str(finding.severity)) == ("net.loss", "train.py:7", "error")
        assert ("> 0" in finding.message) == (largest > 0)


@pytest.mark.parametrize(
    ("smallest", "largest", "found"),
    [
        (0.0, 1.0, False),
        (torch.tensor(-17.0).sigmoid().item(), torch.tensor(17.0).sigmoid().item(), False),  # the latter is 1.0
        (-0.1, 0.9, True),
        (0.1, 1.1, True),
        (-INF, INF, True),
        (NAN, NAN, False),
    ],
)
def test_probabilities_lie_between_zero_and_one(smallest, largest, found):
    finding = no_probabilities(LOSS, smallest, largest)
    assert (finding is not None) is found
    assert finding is None or finding.evidence["largest"] == largest
