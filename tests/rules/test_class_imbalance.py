from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.class_imbalance import class_imbalance, is_plain, label_terms
from lightning_tuning.trace import Recorder


@pytest.mark.parametrize(
    ("counts", "pair"),
    [
        ({0: 950, 1: 30}, (0, 1)),
        ({0: 500, 1: 495, 2: 10}, (0, 2)),
        ({0: 460, 1: 40}, None),  # 11.5, but it could be chance
        ({0: 4600, 1: 400}, (0, 1)),
        ({0: 480, 1: 5}, None),  # too few
        ({0: 5000}, None),
        ({0: 250, 1: 250, 2: 0}, None),  # never seen
        ({}, None),
        (dict.fromkeys(range(100), 5) | {7: 12, 8: 1}, None),  # chance
        ({-100: 900, 0: 300, 1: 300}, None),
    ],
)
def test_counts(counts, pair):
    finding = class_imbalance("batch[1]", counts)
    assert (None if finding is None else (finding.evidence["largest"], finding.evidence["smallest"])) == pair
    assert finding is None or finding.evidence["ratio"] > 10


def terms(loss, logits=(8, 3), target=(8,)):
    net = nn.Linear(4, logits[-1])
    batch = [torch.randn(*logits[:-1], 4), torch.randint(3, target)]
    with Recorder(net, batch) as recorder:
        recorder.mark_loss(loss(net(batch[0]), batch[1]))
    return [(name, is_plain(term)) for name, term in label_terms(recorder.graph)]


def focal(p, y):
    ce = F.cross_entropy(p, y, reduction="none")
    return ((1 - (-ce).exp()) ** 2 * ce).mean()


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (F.cross_entropy, True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), True),
        (lambda p, y: F.nll_loss(p.log_softmax(1), y), True),
        (lambda p, y: F.cross_entropy(p, y.view(-1).long()), True),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3])), False),
        (focal, False),
        (lambda p, y: (F.cross_entropy(p, y, reduction="none") * torch.rand(8)).mean(), False),
    ],
)
def test_plain_losses(loss, plain):
    assert terms(loss) == [("batch[1]", plain)]


def test_a_column_of_labels():
    assert terms(lambda p, y: F.cross_entropy(p, y.squeeze(1)), target=(8, 1)) == [("batch[1]", True)]


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, y: F.cross_entropy(p.reshape(-1, 3), y.reshape(-1)),
        lambda p, y: F.cross_entropy(p.transpose(1, 2), y),
    ],
)
def test_dense_targets_are_left_out(loss):
    assert terms(loss, (8, 5, 3), (8, 5)) == []


def test_soft_and_foreign_targets_are_left_out():
    assert terms(lambda p, y: F.cross_entropy(p, F.one_hot(y, 3).float())) == []
    assert terms(lambda p, y: F.cross_entropy(p, torch.arange(8) % 3)) == []
