from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tuning import Journal, TuningSuite
from lightning_tuning.checks import TargetCheck
from lightning_tuning.runtime import Desk
from tests.cases._data import Classifier, Regressor
from tests.cases.lt107_class_imbalance import mostly_one
from tests.cases.lt109_unscaled_target import prices
from tests.helpers import CLASSES, LSTMNet, ManualGAN, Mlp, TransformerNet, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


def findings(model: Any, *others: Any, **settings: Any) -> list[Any]:
    trainer = quiet_trainer(callbacks=[*(others or [TargetCheck()])], **settings)
    trainer.fit(model)
    return Journal.of(trainer).findings


def codes(*args: Any, **settings: Any) -> list[str]:
    return [finding.code for finding in findings(*args, **settings)]


def from_one(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y + 1


def one_late(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y.index_fill(0, torch.tensor([100]), CLASSES)


class InOrder(Classifier):
    """Batch 6 holds sample 100."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(), batch_size=self.batch_size)


def failing(model: Any, *callbacks: Any, **settings: Any) -> list[Any]:
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    with pytest.raises(IndexError, match=f"Target {CLASSES} is out of bounds"):
        trainer.fit(model)
    return Journal.of(trainer).findings


# --- LT104 -----------------------------------------------------------------------------------------------------------


def test_the_run_ends_with_its_own_error_and_the_finding():
    (finding,) = failing(Classifier(from_one), TargetCheck())
    assert (finding.code, finding.where, finding.step) == ("LT104", "batch[1]", 0)
    assert "helpers.py" in finding.source_line
    assert finding.evidence["high"] == CLASSES


def test_the_users_error_comes_through_where_findings_raise():
    assert [f.code for f in failing(Classifier(from_one), TuningSuite(on_finding="raise"))] == ["LT104"]


def test_a_label_of_a_later_batch():
    (finding,) = failing(InOrder(one_late), TargetCheck())
    assert finding.message == "label 3 in sample 4 of batch 6 lies outside [0, 3)"


def test_a_label_of_the_sanity_check():
    class FromOne(Classifier):
        def val_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.dataset(), batch_size=self.batch_size)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            nn.CrossEntropyLoss()(self(x), y)

    (finding,) = failing(FromOne(from_one), TargetCheck(), num_sanity_val_steps=2)
    assert (finding.code, finding.where, finding.step) == ("LT104", "batch[1]", 0)
    assert "test_target.py" in finding.source_line
    assert finding.remedy.startswith("classes count from 0: `y = y - 1`")


def test_an_error_of_something_else():
    class Broken(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise IndexError(f"Target {CLASSES} is out of bounds.")

    assert failing(Broken(), TargetCheck(), num_sanity_val_steps=1) == []


def test_a_compiled_net_is_asked_aside():
    class Compiled(Classifier):
        def __init__(self) -> None:
            super().__init__(from_one)
            self.net = torch.compile(self.net, backend="eager")

    (finding,) = failing(Compiled(), TargetCheck())
    assert (finding.code, finding.where) == ("LT104", "batch[1]")


def test_the_callback_is_as_good_as_new_after():
    check = TargetCheck()
    failing(Classifier(from_one), check)
    assert codes(Mlp(), check) == []
    assert codes(Mlp(), pickle.loads(pickle.dumps(check))) == []


def test_two_losses_each_have_their_targets():
    class Two(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            logits = self(x)
            signs = 2.0 * (y > 0) - 1
            return F.cross_entropy(logits, y) + F.binary_cross_entropy_with_logits(logits[:, 0], signs)

    (finding,) = findings(Two())
    assert finding.code == "LT104"
    assert "[0, 1]" in finding.message


def test_ignored_labels_and_pixels():
    class Pixels(Classifier):
        shape = (1, 6, 6)

        def build(self) -> nn.Module:
            return nn.Conv2d(1, CLASSES, 3, padding=1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            target = y[:, None, None].expand(-1, 6, 6).clone()
            target[:, 0] = 255
            return F.cross_entropy(self(x), target, ignore_index=255)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    assert codes(Pixels()) == []


# --- LT105, LT107, LT109 ---------------------------------------------------------------------------------------------


def test_a_column_under_bf16_and_manual_optimization():
    class Manual(Regressor):
        def __init__(self) -> None:
            super().__init__(lambda x, y: (x, y.squeeze(1)))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            x, y = batch
            self.manual_backward((self(x) - y).square().mean())
            optimizer.step()

    assert codes(Manual(), precision="bf16-mixed") == ["LT105"]


def test_labels_are_counted_until_there_are_enough():
    assert codes(Classifier(mostly_one, batches=24)) == []  # fewer than 500 labels in the epoch
    assert codes(Classifier(mostly_one, batches=24), max_epochs=3) == []  # and the next ones are the same
    (finding,) = findings(Classifier(mostly_one, batches=40))
    assert finding.code == "LT107"
    assert finding.evidence["labels"] >= 500


def test_it_lets_go():
    trainer = quiet_trainer(callbacks=[TargetCheck()], max_epochs=2)
    trainer.fit(Mlp(batches=4))
    watchers = Desk.of(trainer)._watchers._by_hook
    assert watchers["train_batch_start"] == watchers["train_epoch_end"] == []


def test_a_bias_at_the_mean_is_a_remedy():
    class Begun(Regressor):
        def __init__(self) -> None:
            super().__init__(lambda x, y: (x, 20_000 + y))
            nn.init.constant_(self.net[-1].bias, 20_000.0)

    assert codes(Begun()) == []
    assert codes(Regressor(lambda x, y: (x, 20_000 + y))) == ["LT109"]


def test_a_scaled_loss_and_a_scaled_answer():
    class Scaled(Regressor):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1]) / 1e8

    class Back(Regressor):
        def forward(self, x: Tensor) -> Tensor:
            return 20_000 + 5_000 * self.net(x)

    class Back2(Back):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.smooth_l1_loss(self(batch[0]), batch[1])

    assert codes(Scaled(prices)) == codes(Back2(prices)) == []


# --- healthy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Mlp, LSTMNet, TransformerNet, ManualGAN])
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
def test_healthy_runs(model, settings):
    if model is ManualGAN and "accumulate_grad_batches" in settings:
        return  # Lightning refuses
    assert codes(model(), **settings) == []


def test_contrastive_and_next_token_losses():
    class SimCLR(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            z = F.normalize(torch.cat([self(batch[0]), self(batch[0] + 0.1 * torch.randn_like(batch[0]))]), dim=1)
            logits = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
            return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))

    class Language(Classifier):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50))

        def dataset(self) -> Any:
            zipf = torch.distributions.Categorical(1 / torch.arange(1.0, 51))
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return torch.utils.data.TensorDataset(zipf.sample((1000, 9)))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (tokens,) = batch
            return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    assert codes(SimCLR()) == []
    assert codes(Language(batch_size=50)) == []
