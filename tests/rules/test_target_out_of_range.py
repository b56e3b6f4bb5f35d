from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.checks._target_probe import TargetProbe
from lightning_tuning.rules.target_out_of_range import label_out_of_range, may_be_masked, target_out_of_range
from lightning_tuning.trace import Recorder


def findings(loss, prediction, target):
    """What is found, whether the loss fails or not."""
    probe, net = TargetProbe(), nn.Module()
    net.p = nn.Parameter(prediction)
    recorder = Recorder(net, {"y": target}, [probe])
    with recorder, contextlib.suppress(IndexError, RuntimeError):
        recorder.mark_loss(loss(net.p, target))
    assert recorder.graph.blind == []
    return [
        finding
        for found, name in probe.found({"batch['y']": target})
        if not may_be_masked(recorder.graph, found.op) and (finding := target_out_of_range(found, name)) is not None
    ]


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "remedy"),
    [
        (F.cross_entropy, torch.randn(4, 3), torch.tensor([1, 3, 2, 1]), "`y = y - 1` makes 0 to 2 of 1 to 3"),
        (F.cross_entropy, torch.randn(4, 3), torch.tensor([0, 3, 2, 1]), "number the classes"),
        (F.binary_cross_entropy, torch.rand(3), torch.tensor([-1.0, 1, 1]), "`y = (y == 1).float()`"),
    ],
)
def test_remedies(loss, prediction, target, remedy):
    (finding,) = findings(loss, prediction, target)
    assert remedy in finding.remedy


LOGITS, MAPS, ONE = torch.randn(4, 3), torch.randn(2, 3, 4, 5), torch.randn(3)
Y = torch.tensor([0, 2, 1, 3])


def by_hand(p, y):
    return F.nll_loss(F.log_softmax(p, 1), y)


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "message"),
    [
        (F.cross_entropy, LOGITS, Y, "1 of 4 targets batch['y'] of cross_entropy lie outside [0, 3): they go"),
        (nn.CrossEntropyLoss(), LOGITS, Y - 1, "they go from -1 to 2"),
        (nn.CrossEntropyLoss(ignore_index=-1), LOGITS, Y - 1, None),
        (nn.CrossEntropyLoss(ignore_index=3), LOGITS, Y, None),
        (nn.CrossEntropyLoss(label_smoothing=0.1), LOGITS, Y, "outside [0, 3)"),
        (F.cross_entropy, LOGITS, torch.tensor([0, 2, 1, -100]), None),
        (F.cross_entropy, LOGITS, torch.tensor([-100] * 4), None),
        (F.cross_entropy, LOGITS, torch.softmax(torch.randn(4, 3), 1), None),
        (F.cross_entropy, MAPS, torch.full((2, 4, 5), 255), "40 of 40 targets"),
        (nn.CrossEntropyLoss(ignore_index=255), MAPS, torch.full((2, 4, 5), 255), None),
        (F.cross_entropy, MAPS, torch.ones(2, 4, 5, dtype=torch.long), None),
        (F.cross_entropy, ONE, torch.tensor(3), "1 of 1 targets"),
        (by_hand, LOGITS, Y, "of nll_loss lie outside [0, 3)"),
        (lambda p, y: F.cross_entropy(input=p, target=y), LOGITS, Y, "outside [0, 3)"),
        (lambda p, y: F.cross_entropy(target=y, input=p), LOGITS, Y, "outside [0, 3)"),
        (F.binary_cross_entropy_with_logits, ONE, torch.tensor([-1.0, 1, 1]), "they go from -1 to 1"),
        (F.binary_cross_entropy_with_logits, ONE, torch.tensor([0.1, 0.9, 1]), None),
        (F.binary_cross_entropy_with_logits, ONE, torch.tensor([0.0, 1.004, 1]), None),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), ONE, torch.tensor([0.0, 2, 1]), "they go from 0 to 2"),
        (lambda p, y: F.binary_cross_entropy(p.sigmoid(), y), ONE, torch.tensor([0.0, 2, 1]), "they go from 0 to 2"),
    ],
)  # fmt: skip
def test_targets(loss, prediction, target, message):
    found = findings(loss, prediction, target)
    if message is None:
        assert found == []
    else:
        (finding,) = found
        assert message in finding.message
        assert finding.where == "batch['y']"
        assert finding.evidence["total"] >= finding.evidence["bad"] > 0


def masked_after(p, y):
    return (F.binary_cross_entropy_with_logits(p, y, reduction="none") * (y >= 0)).mean()


def masked_by_weight(p, y):
    return F.binary_cross_entropy_with_logits(p, y, weight=(y >= 0).float())


def noisy_real(p, y):
    return F.binary_cross_entropy_with_logits(p, torch.full_like(p, 1.2))


@pytest.mark.parametrize("loss", [masked_after, masked_by_weight, noisy_real])
def test_marks_and_noise_of_the_step_itself(loss):
    assert findings(loss, ONE, torch.tensor([-1.0, 1, 0])) == []


@pytest.mark.parametrize(
    ("labels", "bad"), [([0, 1, 2], 0), ([], 0), ([0, 3, 5], 2), ([-1, 0, 1], 1), ([-100, 0, 1], 0)]
)
def test_later_labels(labels, bad):
    finding = label_out_of_range("batch[1]", labels, 3, -100, 9)
    assert (finding.evidence["bad"] if finding else 0) == bad


def test_a_view_is_found_by_its_memory():
    y = torch.tensor([[0], [7]])
    (finding,) = findings(lambda p, t: F.cross_entropy(p, t.view(-1)), torch.randn(2, 3), y)
    assert finding.where == "batch['y']"
