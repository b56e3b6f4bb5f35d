"""``head_bias="prior"``: the first loss is that of the best constant answer."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from lightning_tuning.checks import InitCheck
from lightning_tuning.findings import Journal, TuningWarning
from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import LSTMNet, ManualGAN, TinyModule, quiet_trainer

SAMPLES = 640


def rare(samples: int = SAMPLES) -> Tensor:
    """Class 1 in 1 of 20 samples, class 2 in 1 of 40."""
    y = torch.zeros(samples, dtype=torch.long)
    y[::20], y[10::40] = 1, 2
    return y


class Rare(TinyModule):
    """A small head behind a small net, any loss, any targets."""

    out = 3

    def __init__(self, y: Tensor | None = None, lr: float = 0.0) -> None:
        super().__init__(lr, batches=4, batch_size=64)
        self.y = rare() if y is None else y
        self.losses: list[float] = []

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, self.out))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(*batch)
        self.losses.append(float(loss.detach()))
        return loss

    def data(self) -> TensorDataset:
        x = torch.randn(len(self.y), 8, generator=torch.Generator().manual_seed(0))
        return TensorDataset(x, self.y)

    def train_dataloader(self) -> Any:
        return DataLoader(self.data(), batch_size=64)

    def val_dataloader(self) -> Any:
        return []


class Binary(Rare):
    out = 1

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(x).squeeze(-1), (y == 1).float() if y.dtype == torch.long else y)


class Values(Rare):
    out = 2

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self(x), y)


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), limit_val_batches=0, **settings)
    trainer.fit(model)
    return trainer


def prior(model: pl.LightningModule, **options: Any) -> tuple[Tensor, str]:
    """The bias that the head got, and what the report says of it."""
    callback = WeightInitCallback(head_bias="prior", **options)
    fit(model, callback)
    return model.net[-1].bias.detach(), callback.report_.notes[-1]


def test_classes() -> None:
    bias, note = prior(Rare())
    shares = torch.bincount(rare()) / SAMPLES
    assert torch.allclose(bias.softmax(0), shares, atol=2e-3)
    assert float(bias.exp().sum()) == pytest.approx(1.0)
    assert note == "head_bias 'prior': net.2.bias is -3.66 to -0.0795, from 640 targets"


@pytest.mark.filterwarnings("ignore", category=TuningWarning)
@pytest.mark.parametrize("scheme", ["auto", "he", "lsuv"])
def test_the_first_loss_says_so(scheme: str) -> None:
    bare, treated = Rare(), Rare()
    findings = []
    for model, callbacks in ((bare, []), (treated, [WeightInitCallback(scheme, head_bias="prior", seed=0)])):
        trainer = fit(model, *callbacks, InitCheck())
        findings.append({finding.code for finding in Journal.of(trainer).findings})
    assert "LT207" in findings[0]
    assert not {"LT206", "LT207"} & findings[1]
    shares = torch.bincount(rare()) / SAMPLES
    entropy = float(-(shares * shares.log()).sum())
    assert treated.losses[0] < 0.6 * bare.losses[0]
    assert treated.losses[0] < entropy + 0.4  # the weights of the head speak too


def test_with_the_outputs_weight_at_zero_it_is_the_entropy() -> None:
    model = Rare()
    nn.init.zeros_(model.net[2].weight)
    prior(model)
    shares = torch.bincount(rare(), minlength=3).double() / SAMPLES
    entropy = float(-(shares * shares.log()).sum())
    assert sum(model.losses) / len(model.losses) == pytest.approx(entropy, rel=1e-3)


def test_ignored_labels_smoothing_and_classes_never_seen() -> None:
    class Smooth(Rare):
        out = 4

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self(x), y, ignore_index=2, label_smoothing=0.1)

    bias, _ = prior(Smooth())
    counts = torch.tensor([592.0, 32.0, 0.0, 0.0]) + 0.5
    assert torch.allclose(bias.exp(), 0.9 * counts / counts.sum() + 0.025, atol=1e-5)


def test_binary_one_logit_and_several() -> None:
    class Several(Binary):
        out = 3

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy(self(x).sigmoid(), y)

    one = (rare() == 1).float()
    bias, note = prior(Binary(one))
    assert float(bias) == pytest.approx(math.log(32.5 / 608.5), rel=1e-5)
    assert "net.2.bias is -2.93, from 640 targets" in note
    bias, _ = prior(Several(F.one_hot(rare()).float()))
    assert torch.allclose(bias, torch.tensor([math.log(n / (641 - n)) for n in (592.5, 32.5, 16.5)]))


def test_values_get_their_mean() -> None:
    y = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(1)) + torch.tensor([100.0, -7.0])
    bias, _ = prior(Values(y))
    assert torch.allclose(bias, y.mean(0))


def test_maps_have_a_prior_for_each_channel() -> None:
    class Segmenter(Rare):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(x.reshape(-1, 1, 2, 4)), y)

    y = torch.zeros(64, 2, 2, 4)
    y[::16, 0], y[:, 1, 0] = 1, 1
    bias, _ = prior(Segmenter(y))
    expected = [math.log((32 + 0.5) / (480.5)), 0.0]
    assert torch.allclose(bias, torch.tensor(expected), atol=1e-5)


class Stream(IterableDataset):
    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return (self.data[index] for index in range(SAMPLES))


def test_where_samples_cannot_be_had_by_index_the_first_batch_does() -> None:
    class Streaming(Rare):
        def train_dataloader(self) -> Any:
            return DataLoader(Stream(self.data()), batch_size=64)

    class Weighted(Rare):
        def train_dataloader(self) -> Any:
            sampler = WeightedRandomSampler((1 + 19 * (self.y > 0)).double(), SAMPLES)
            return DataLoader(self.data(), batch_size=64, sampler=sampler)

    class Hooked(Rare):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    class Counting(Rare):
        def train_dataloader(self) -> Any:
            self.collated = 0

            def collate(samples: list[Any]) -> Any:
                self.collated += 1
                return torch.utils.data.default_collate(samples)

            return DataLoader(self.data(), batch_size=64, collate_fn=collate)

    counting = Counting()
    for model in (Streaming(), Hooked(), counting):
        bias, note = prior(model)
        assert note.endswith("from 64 targets")
        assert torch.allclose(bias.exp(), (torch.bincount(rare(64)) + 0.5) / 65.5)
    assert counting.collated == 10  # those of the run
    bias, note = prior(Weighted())
    assert note.endswith("from 64 targets")
    assert float(bias.exp()[0]) < 0.7  # as it is sampled


def test_samples_are_read_without_a_trace() -> None:
    """Random numbers, of the run and of the data set's own transforms, are drawn as without."""

    class Noisy(Dataset[Any]):
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(1)

        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, index: int) -> Any:
            x = torch.randn(8, generator=self.generator) + torch.rand(8)
            return x, rare()[index]

    class Drawing(Rare):
        def train_dataloader(self) -> Any:
            return DataLoader(Noisy(), batch_size=64, shuffle=True)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen = [*getattr(self, "seen", []), float(batch[0].sum())]
            return super().training_step(batch, batch_idx)

    seen = []
    for callbacks in ([], [WeightInitCallback(head_bias="prior")]):
        pl.seed_everything(4, verbose=False)
        fit(model := Drawing(), *callbacks, max_epochs=2)
        seen.append((model.seen, float(torch.rand(()))))
    assert seen[0] == seen[1]


def test_few_batches_are_a_sample_of_all() -> None:
    bias, note = prior(Rare(torch.arange(SAMPLES) * 3 // SAMPLES), prior_batches=3)  # sorted by class
    assert note.endswith("from 192 targets")
    assert torch.allclose(bias.exp(), torch.full((3,), 1 / 3), atol=0.1)


def one_hot_by_hand(model: Rare, x: Tensor, y: Tensor) -> Tensor:
    return -(model(x).log_softmax(1) * F.one_hot(y, 3)).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda m, x, y: F.cross_entropy(m(x), y, weight=torch.ones(3)), "the loss weighs its classes or samples"),
        (lambda m, x, y: F.cross_entropy(m(x), y) + F.mse_loss(m(x)[:, 0], x[:, 0]), "the loss is a sum of several"),
        (lambda m, x, y: F.cross_entropy(m(x), y * 1), "the targets of the loss are computed in the step"),
        (one_hot_by_hand, "the targets of the loss are computed in the step"),
        (lambda m, x, y: F.cross_entropy(m(x).tanh(), y), "the loss does not compare a layer's own outputs"),
        (lambda m, x, y: F.cross_entropy(m(x), y, reduction="sum"), "the loss is not the mean of one comparison"),
        (lambda m, x, y: m(x).square().mean(), ""),
    ],
)
def test_what_is_not_known_is_left_and_said(loss: Any, said: str) -> None:
    class Other(Rare):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return loss(self, x, y)

    bias, note = prior(Other())
    assert torch.equal(bias, torch.zeros(3))
    assert note.startswith(f"head_bias 'prior': left, {said}")


def test_a_head_without_a_bias_of_its_own() -> None:
    class Bare(Rare):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3, bias=False))

    callback = WeightInitCallback(head_bias="prior")
    fit(Bare(), callback)
    assert callback.report_.notes == ["head_bias 'prior': left, the output layer has no bias of its own"]


def test_manual_optimization_with_two_losses() -> None:
    callback = WeightInitCallback(head_bias="prior")
    fit(ManualGAN(), callback)
    assert callback.report_.notes == ["head_bias 'prior': left, the step has several losses"]


@pytest.mark.parametrize("how", ["set", "frozen", "excluded"])
def test_somebodys_bias_stays(how: str) -> None:
    model = Rare()
    if how == "set":
        nn.init.constant_(model.net[2].bias, -1.0)
    model.net[2].bias.requires_grad_(how != "frozen")
    before = model.net[2].bias.detach().clone()
    bias, note = prior(model, exclude="net.2" if how == "excluded" else ())
    assert torch.equal(bias, before)
    assert {"set": "set since", "frozen": "frozen", "excluded": "excluded"}[how] in note


def test_overwrite_takes_a_set_bias_too_but_never_twice() -> None:
    model = Rare()
    nn.init.constant_(model.net[2].bias, -1.0)
    bias, _ = prior(model, overwrite=True)
    assert float(bias[0]) > -0.1
    with torch.no_grad():
        model.net[2].bias.fill_(3.0)  # trained since
    callback = WeightInitCallback(head_bias="prior", overwrite=True)
    fit(model, callback)
    assert float(model.net[2].bias.detach()[0]) == 3.0


def test_a_fresh_head_on_an_excluded_weight() -> None:
    bias, note = prior(Rare(), scheme={"net.0": "he"})
    assert "from 640 targets" in note
    assert float(bias.exp()[1]) == pytest.approx(0.05, abs=0.002)


def test_recurrent_nets_and_accumulation() -> None:
    callback = WeightInitCallback(head_bias="prior")
    fit(model := LSTMNet(), callback, accumulate_grad_batches=2)
    assert "net.head.bias is" in callback.report_.notes[0]
    assert model.net["lstm"].bias_ih_l0.shape == (48,)
