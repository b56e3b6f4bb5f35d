from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_tuning.trace import Graph, Recorder
from tests.helpers import quiet_trainer


class Trace(pl.Callback):
    """Records the first batch: up to the loss, or with manual optimization the whole step."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.graph: Graph | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.recorder = Recorder(pl_module, batch)
            self.recorder.__enter__()

    def on_before_backward(self, trainer, pl_module, loss):
        if self.recorder is not None:
            self.recorder.mark_loss(loss)
            if pl_module.automatic_optimization:
                self.leave()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.leave()

    def leave(self):
        if self.recorder is not None:
            self.recorder.__exit__(None, None, None)
            self.graph, self.recorder = self.recorder.graph, None


class Logging(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        self.seen = MeanMetric()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.seen(loss)
        self.log("loss", loss, on_epoch=True)
        self.log("seen", self.seen)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def data():
    return DataLoader(TensorDataset(torch.randn(8, 4), torch.randint(2, (8,))), batch_size=4)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_automatic_optimization(options):
    trace = Trace()
    quiet_trainer(callbacks=[trace], **options).fit(Logging(), data())
    graph = trace.graph
    assert graph.blind == []
    upstream = [op.name for op in graph.ops if graph.reaches_loss(op)]
    assert upstream[:4] == ["linear", "relu", "linear", "cross_entropy"]
    assert graph.find("linear")[0].module == "net.0"
    assert [graph.values[value].name for value in graph.find("cross_entropy")[0].inputs][1] == "batch[1]"
    assert upstream[4:] == [
        "div"
    ]  # by accumulate_grad_batches; Lightning does it in the closure that the optimizer calls
    assert graph.find("detach", feeding=True) == []  # logging looks at the loss, it does not make it


@pytest.mark.parametrize("kind", [BoringModel, ManualOptimBoringModel])
def test_modules_that_come_with_lightning_count_as_the_users(kind):
    trace = Trace()
    quiet_trainer(callbacks=[trace], limit_train_batches=1, limit_val_batches=0).fit(kind())
    linear, loss, *_ = trace.graph.find(feeding=True)
    assert (linear.name, loss.name) == ("linear", "mse_loss")
    assert "boring_classes.py:" in linear.source_line
