from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from lightning_tuning import Journal, NanLossGuard, TuningSuite, TuningWarning
from lightning_tuning.checks import DataCheck
from lightning_tuning.runtime import Desk
from tests.cases._data import Classifier, Regressor
from tests.helpers import CLASSES, LSTMNet, ManualGAN, Mlp, TinyModule, blobs, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning", "ignore:.*overfit:UserWarning")

NAN, INF = float("nan"), float("inf")


def found(model: Any, check: DataCheck | None = None, *others: Any, **settings: Any) -> list[tuple[str, str, str]]:
    trainer = quiet_trainer(callbacks=[check or DataCheck(), *others], **settings)
    trainer.fit(model)
    return [(f.code, f.where, f.message) for f in Journal.of(trainer).findings]


def codes(*args: Any, **settings: Any) -> list[str]:
    return [code for code, _, _ in found(*args, **settings)]


@pytest.mark.parametrize("kwargs", [{"batches": 0}, {"batches": 2.5}, {"batches": True}, {"every": 0}, {"every": "9"}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}` must be an integer of at least 1"):
        DataCheck(**kwargs)


@pytest.mark.parametrize("allow", ["batch[0]", [3]])
def test_bad_globs(allow):
    with pytest.raises(ValueError, match="`allow` must be a sequence of texts"):
        DataCheck(allow=allow)


# --- LT101 -----------------------------------------------------------------------------------------------------------


class Leaves(TinyModule):
    """Batches are dicts with one more tensor, of which the loss makes what ``use`` says."""

    def __init__(self, extra: Tensor, use: Any = None) -> None:
        super().__init__()
        self.extra, self.use = extra, use

    def build(self) -> nn.Module:
        return nn.Linear(8, CLASSES)

    def train_dataloader(self) -> DataLoader[Any]:
        x, y = blobs(len(self.extra)).tensors
        items = [{"x": a, "y": b, "extra": c} for a, b, c in zip(x, y, self.extra, strict=True)]
        return DataLoader(items, batch_size=self.batch_size)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch["x"]), batch["y"])
        return loss if self.use is None else loss + self.use(batch["extra"], self.net.weight)


def with_bad(*bad: tuple[int, float], shape: tuple[int, ...] = (128, 4)) -> Tensor:
    extra = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for index, value in bad:
        extra[index, 1] = value
    return extra


def careless(extra: Tensor, weight: Tensor) -> Tensor:
    return (extra * weight.mean()).mean()


def careful(extra: Tensor, weight: Tensor) -> Tensor:
    return torch.where(extra.isnan(), 0.0, extra).mean() * weight.mean()


def as_mask(extra: Tensor, weight: Tensor) -> Tensor:
    return ((extra + weight.mean()).softmax(1) * weight.mean()).mean()


def test_every_bad_batch_is_named_with_its_step():
    model = Leaves(with_bad((20, NAN), (23, INF), (90, -INF)), careless)
    trainer = quiet_trainer(callbacks=[DataCheck(), NanLossGuard(action="skip")])
    trainer.fit(model)
    (own,) = [f for f in Journal.of(trainer).findings if f.code == "LT101"]
    assert own.where == "batch['extra']"
    assert (own.count, own.step) == (2, 1)
    assert own.message == "-inf in 1 of 16 samples of batch 5: sample 10"


@pytest.mark.parametrize(
    ("extra", "use", "check"),
    [
        (with_bad((20, NAN)), careful, DataCheck()),
        (with_bad((20, NAN)), None, DataCheck()),
        (with_bad((20, NAN)), careless, DataCheck(allow=["*extra*"])),
        (with_bad((20, NAN)), careless, DataCheck(batches=1)),
        (with_bad((20, NAN)), careless, DataCheck(batches=1, every=2)),
        (torch.where(torch.rand(128, 4) < 0.3, -INF, 0.0).index_fill(1, torch.tensor([0]), 0.0), as_mask, DataCheck()),
    ],
    ids=["asked for", "unused", "allowed", "too late", "between", "a mask of attention"],
)
def test_what_may_be(extra, use, check):
    assert "LT101" not in codes(Leaves(extra, use), check, NanLossGuard(action="skip"))


def test_every_n_batches_after():
    check = DataCheck(batches=1, every=2)
    assert "LT101" in codes(Leaves(with_bad((2 * 16 + 3, NAN)), careless), check, NanLossGuard(action="skip"))


def test_it_is_told_even_if_the_first_step_fails():
    def fails(extra: Tensor, weight: Tensor) -> Tensor:
        raise RuntimeError("a mistake")

    trainer = quiet_trainer(callbacks=[DataCheck()])
    with pytest.raises(RuntimeError, match="a mistake"):
        trainer.fit(Leaves(with_bad((3, NAN)), fails))
    assert [f.where for f in Journal.of(trainer).findings] == ["batch['extra']"]


@pytest.mark.parametrize(
    "extra",
    [
        torch.randn(128, 4).to_sparse(),
        torch.randn(128, 4, dtype=torch.complex64),
        torch.randn(128, 4).to(torch.float8_e4m3fn),
        torch.zeros(128, 0),
        torch.arange(128),
        torch.zeros(128, dtype=torch.bool),
    ],
    ids=["sparse", "complex", "float8", "empty", "integers", "flags"],
)
@pytest.mark.filterwarnings("ignore:.*sparse.*:UserWarning")
def test_odd_tensors(extra):
    class Odd(Leaves):
        def train_dataloader(self) -> DataLoader[Any]:
            def collate(items: list[Any]) -> dict[str, Any]:
                x, y = torch.utils.data.default_collate(items)
                return {"x": x, "y": y, "extra": extra, "text": ["a"], "nothing": None, "scalar": torch.tensor(1.5)}

            return DataLoader(blobs(128), batch_size=self.batch_size, collate_fn=collate)

    assert codes(Odd(extra)) == []


# --- LT102 -----------------------------------------------------------------------------------------------------------


def far(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x + 6, y


def test_a_run_that_learns_hears_nothing_of_its_inputs():
    assert codes(Classifier(far, lr=1e-3, batches=60)) == []


class Still(Classifier):
    """Its learning rate is nearly nothing."""

    def __init__(self) -> None:
        super().__init__(far, lr=1e-9, batches=210)


def test_a_run_that_stands_still_does():
    trainer = quiet_trainer(callbacks=[DataCheck()])
    with pytest.warns(TuningWarning, match="LT102"):
        trainer.fit(Still())
    (finding,) = Journal.of(trainer).findings
    assert (finding.where, str(finding.severity)) == ("net.0", "warning")
    assert "standard deviations from 0" in finding.message


def test_normalized_first():
    class Normalizing(Classifier):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(8), *super().build())

    assert codes(Normalizing(lambda x, y: (255 * x, y))) == []


# --- LT106 -----------------------------------------------------------------------------------------------------------


def by_class(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = y.argsort()
    return x[order], y[order]


class OwnSampler(SequentialSampler):
    pass


class Sorted(Classifier):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(by_class)
        self.arguments = arguments

    def train_dataloader(self) -> DataLoader[Any]:
        data = self.dataset()
        arguments = {name: value(data) for name, value in self.arguments.items()}
        return DataLoader(
            data, **({"batch_size": self.batch_size} if "batch_sampler" not in arguments else {}), **arguments
        )


class Stream(IterableDataset[Any]):
    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data[i] for i in range(len(self.data)))


def test_sorted_classes():
    assert codes(Sorted()) == ["LT106"]


def test_sorted_classes_in_a_batch_of_a_dict_and_seen_by_a_manual_optimization():
    class Manual(Sorted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    assert codes(Manual()) == ["LT106"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"sampler": OwnSampler},
        {"batch_sampler": lambda data: [list(range(i, i + 16)) for i in range(0, len(data), 16)]},
        {"sampler": lambda data: torch.utils.data.RandomSampler(data, generator=torch.Generator().manual_seed(0))},
    ],
    ids=["own sampler", "own batches", "random"],
)
def test_other_orders(arguments):
    assert codes(Sorted(**arguments)) == []


def test_streams_and_overfitting_have_the_order_they_have():
    class Streaming(Sorted):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(Stream(self.dataset()), batch_size=self.batch_size)

    assert codes(Streaming()) == []
    assert codes(Sorted(), overfit_batches=6) == []


def test_it_is_told_once_over_a_resume(tmp_path):
    trainer = quiet_trainer(callbacks=[DataCheck()])
    trainer.fit(Sorted())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = quiet_trainer(callbacks=[DataCheck()], max_epochs=2)
    again.fit(Sorted(), ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    assert [(f.code, f.count) for f in Journal.of(again).findings] == [("LT106", 1)]


# --- LT103, LT113 ----------------------------------------------------------------------------------------------------


def test_images_with_an_opaque_channel():
    class Images(Classifier):
        shape = (4, 6, 6)

        def build(self) -> nn.Module:
            return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))

    def opaque(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x[:, :3], torch.ones_like(x[:, :1])], 1), y

    ((code, where, message),) = found(Images(opaque))
    assert (code, where, message) == ("LT103", "batch[0]", "channel 3 of 4 is 1 in all 128 samples")
    assert codes(Images()) == []


class OneBatch(Regressor):
    """All the data there is in every batch."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(), batch_size=len(self.dataset()))


class Dummy(Classifier):
    """The loader counts, and the step makes its own data."""

    def dataset(self) -> Dataset[Any]:
        return TensorDataset(torch.zeros(128, 8), torch.zeros(128))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = torch.randn_like(batch[0])
        return F.cross_entropy(self(x), (x[:, 0] > 0).long())


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (OneBatch, {"max_epochs": 5}),
        (Dummy, {}),
        (Classifier, {"overfit_batches": 1, "max_epochs": 4}),
        (lambda: Classifier(lambda x, y: (F.one_hot(y * 0, 8).float(), y)), {}),
    ],
    ids=["one batch", "dummy", "overfitting", "one-hot"],
)
def test_alike_on_purpose(model, settings):
    assert codes(model(), **settings) == []


# --- all together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Mlp, LSTMNet, ManualGAN])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_healthy_runs(model, precision):
    assert codes(model(), precision=precision) == []


def test_it_lets_go_when_it_has_seen_enough():
    check = DataCheck(batches=4)
    trainer = quiet_trainer(callbacks=[check], max_epochs=2)
    trainer.fit(Mlp(batches=30))
    watchers = Desk.of(trainer)._watchers._by_hook
    assert watchers["train_batch_start"] == watchers["train_epoch_end"] == watchers["train_batch_end"] == []
    assert check._watch is None


def test_the_loader_is_never_asked():
    class Counting(Dataset[Any]):
        def __init__(self) -> None:
            self.data, self.asked = blobs(128), []

        def __len__(self) -> int:
            return 128

        def __getitem__(self, index: int) -> Any:
            self.asked.append(index)
            return self.data[index]

    class Counted(Classifier):
        def dataset(self) -> Dataset[Any]:
            return counting

    counting = Counting()
    assert codes(Counted()) == []
    assert sorted(counting.asked) == list(range(128))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: torch.nested.nested_tensor(list(x)),
        lambda x: x.relu().to_sparse(),
        lambda x: torch.complex(x, x),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    ],
    ids=["float8", "nested", "sparse", "complex", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_unusual_tensors_are_let_pass(make: Any) -> None:
    class Unusual(Mlp):
        def train_dataloader(self) -> DataLoader[Any]:
            batches = [(make(torch.randn(16, 8)), torch.arange(16) % CLASSES) for _ in range(3)]
            return DataLoader(batches, batch_size=None)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.nested.to_padded_tensor(x, 0.0) if x.is_nested else x
            x = x.dequantize() if x.is_quantized else x.to_dense() if x.is_sparse else x
            return self.net(x.real if x.is_complex() else x.float())

    trainer = quiet_trainer(callbacks=[TuningSuite()])
    trainer.fit(Unusual())
    assert Journal.of(trainer).findings == []
