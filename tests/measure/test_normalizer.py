"""What batch norms are given with dropout and without, against plain torch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.measure.normalizer import Call, Normalizer, pooled


class Net(pl.LightningModule):
    def __init__(self, drop: Any) -> None:
        super().__init__()
        self.drop, self.bn = drop, nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.drop(x))


DROPS = {
    "module": nn.Dropout(0.5),
    "functional": lambda x: F.dropout(x, 0.5),
    "in place": lambda x: F.dropout(x.clone(), 0.5, True, True),
    "by keyword": lambda x: F.dropout(input=x, p=0.5),
    "torch's": lambda x: torch.dropout(x, 0.5, True),
    "of channels": lambda x: F.dropout1d(x[:, :, None], 0.5)[:, :, 0],
    "alpha": nn.AlphaDropout(0.5),
}


@pytest.mark.parametrize("drop", DROPS)
def test_dropout_is_switched_off(drop: str) -> None:
    x, net = torch.randn(64, 4), Net(DROPS[drop])
    on, off = Normalizer(net), Normalizer(net, drops=False)
    for mode in (on, off):
        with mode.entered():
            net(x)
    call = Call("bn", 0)
    assert torch.allclose(off.seen[call].var, x.var(0))
    assert not torch.allclose(on.seen[call].var, x.var(0))


def test_statistics_of_several_batches_are_averaged() -> None:
    net, batches = Net(nn.Identity()), [torch.randn(16, 4) * scale for scale in (1.0, 2.0, 3.0)]
    seen = []
    for x in batches:
        mode = Normalizer(net)
        with mode.entered():
            net(x)
        seen.append(mode.seen)
    mean = pooled(seen)[Call("bn", 0)]
    reference = nn.BatchNorm1d(4, momentum=None)
    for x in batches:
        reference(x)
    assert torch.allclose(mean.mean, reference.running_mean, atol=1e-6)
    assert torch.allclose(mean.var, reference.running_var, atol=1e-6)
    assert pooled([]) == {}
    assert pooled([{Call("bn", 0): mean}, {}]) == {}
