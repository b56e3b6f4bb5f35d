"""Which dataset indices a batch was made of: known for certain, or not told at all; and nobody notices."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_tuning.guards._recorder import Recorder
from lightning_tuning.guards._samples import SampleIndices, indices_of
from lightning_tuning.guards._sieve import Sieve
from lightning_tuning.trace import Origin
from lightning_tuning.trace.batch import batch_tensors
from tests.helpers import Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

SAMPLES = 23


class Numbers(Dataset[Tensor]):
    """Item ``i`` is full of the number ``i``, so that a batch tells of what it was made."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((8,), float(index))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((8,), float(index)) for index in range(SAMPLES))


class Changing(BatchSampler):
    """Batches of one, two, three, ... samples, the last ones first; of unknown number."""

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[list[int]]:
        left, size = list(range(SAMPLES)), 1
        while left:
            batch, left, size = left[-size:], left[:-size], size + 1
            yield batch

    __len__ = None  # type: ignore[assignment]


class Tensors:
    """Draws tensors of indices; no Sampler."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randperm(SAMPLES).split(6))


class Own(DataLoader[Any]):
    """An iteration of its own, one batch ahead."""

    def __iter__(self) -> Any:
        batches = super().__iter__()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead


class Summing(Mlp):
    """Takes any batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(self.net(tensor.reshape(-1, 8) / SAMPLES).square().mean() for _, tensor in batch_tensors(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)


class Noting(pl.Callback):
    """Notes for every batch what it holds, and what its indices are said to be."""

    def __init__(self, *, watch: bool = True) -> None:
        self.samples = SampleIndices() if watch else None
        self.held: list[dict[str, tuple[int, ...] | None]] = []
        self.said: list[dict[str, tuple[int, ...] | None]] = []
        self.attributes: list[set[str]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.samples is not None:
            self.samples.begin(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        self.held.append({name: held(tensor) for name, tensor in batch_tensors(batch)})
        if self.samples is not None:
            draws = self.samples.draws().items()
            self.said.append({name: None if draw is None else draw.indices for name, draw in draws})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.samples is not None:
            self.samples.end()


def held(tensor: Tensor) -> tuple[int, ...]:
    return tuple(int(row[0]) for row in tensor.reshape(-1, 8))


def fit(make: Callable[[], Any], callback: Noting, **settings: Any) -> Summing:
    class Model(Summing):
        def train_dataloader(self) -> Any:
            return make()

    model = Model()
    torch.manual_seed(7)
    settings = {"max_epochs": 3, "limit_val_batches": 0, **settings}
    quiet_trainer(callbacks=[callback], **settings).fit(model)
    return model


def numbers(**settings: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(Numbers(), **{"batch_size": 4, **settings})


LOADERS: dict[str, Callable[[], Any]] = {
    "sequential": numbers(),
    "random": numbers(shuffle=True),
    "drop-last": numbers(shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(Numbers(), 4, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "weighted": lambda: DataLoader(Numbers(), 4, sampler=WeightedRandomSampler(list(range(1, 24)), 17)),
    "subset": numbers(sampler=SubsetRandomSampler([1, 5, 9, 21, 2])),
    "own-batches": lambda: DataLoader(Numbers(), batch_sampler=Changing()),
    "tensors": lambda: DataLoader(Numbers(), batch_sampler=Tensors()),
    "one-by-one": numbers(batch_size=None, shuffle=True),
    "batched-fetch": lambda: DataLoader(
        torch.arange(SAMPLES).float()[:, None].expand(-1, 8),
        batch_size=None,
        sampler=BatchSampler(RandomSampler(range(SAMPLES)), 4, drop_last=False),
    ),
    "workers": numbers(shuffle=True, num_workers=2),
    "prefetching": numbers(shuffle=True, num_workers=1, prefetch_factor=4),
    "persistent": numbers(shuffle=True, num_workers=2, persistent_workers=True),
    "unsized-workers": lambda: DataLoader(Numbers(), batch_sampler=Changing(), num_workers=2),
    "dict": lambda: {"a": numbers(shuffle=True)(), "b": numbers(batch_size=7, shuffle=True)()},
    "list": lambda: [numbers(shuffle=True)(), numbers(batch_size=5)()],
    "min-size": lambda: CombinedLoader({"a": numbers()(), "b": numbers(batch_size=7, shuffle=True)()}, "min_size"),
    "max-size": lambda: CombinedLoader([numbers(shuffle=True)(), numbers(batch_size=7)()], "max_size"),
    "nested": lambda: {"a": [numbers()(), numbers(batch_size=9, shuffle=True)()], "b": numbers(batch_size=None)()},
    "dict-workers": lambda: {"a": numbers(num_workers=1)(), "b": numbers(batch_size=7, num_workers=1)()},
}


@pytest.mark.parametrize("name", LOADERS)
def test_tells_what_the_batch_holds(name: str) -> None:
    noting, plain = Noting(), Noting(watch=False)
    watched = fit(LOADERS[name], noting)
    bare = fit(LOADERS[name], plain)
    assert len(noting.said) > 3
    for said, held in zip(noting.said, noting.held, strict=True):
        assert {key: said[key] for key in held} == held  # a loader at its end gives None, and no tensor
    assert noting.held == plain.held  # and nothing was drawn that is not drawn without it
    for first, second in zip(watched.parameters(), bare.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    "settings",
    [
        {"limit_train_batches": 2},
        {"overfit_batches": 2},
        {"reload_dataloaders_every_n_epochs": 1},
        {"limit_val_batches": 1.0, "val_check_interval": 2},
        {"accumulate_grad_batches": 2},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:The 'val_dataloader' does not have many")
def test_whatever_the_trainer_does(settings: dict[str, Any], workers: int) -> None:
    noting, plain = Noting(), Noting(watch=False)
    for callback in (noting, plain):
        fit(numbers(shuffle=True, num_workers=workers), callback, **settings)
    assert noting.said == noting.held == plain.held
    assert len(noting.said) >= 6


UNKNOWN: dict[str, Callable[[], Any]] = {
    "stream": lambda: DataLoader(Stream(), 4),
    "own-iteration": lambda: Own(Numbers(), 4),
    "a-list": lambda: [torch.full((4, 8), float(i)) for i in range(3)],
    "out-of-order": numbers(num_workers=2, in_order=False),
    "names": lambda: DataLoader({"a": torch.zeros(8), "b": torch.ones(8)}, 2, sampler=["a", "b"]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Total length of")
def test_says_nothing_where_it_cannot_know(name: str) -> None:
    noting = Noting()
    fit(lambda: {"x": UNKNOWN[name]()} if name == "a-list" else UNKNOWN[name](), noting, max_epochs=1)
    assert noting.said
    assert all(indices is None for said in noting.said for indices in said.values())


def test_of_several_loaders_one_may_be_known() -> None:
    noting = Noting()
    fit(lambda: {"known": numbers()(), "stream": DataLoader(Stream(), 4)}, noting, max_epochs=1)
    # Without a length Lightning draws one batch ahead, and in vain from some of them at the end: neither is sure.
    assert {tuple(said) for said in noting.said} == {("batch['known']", "batch['stream']")}
    assert all(said["batch['stream']"] is None for said in noting.said)


@pytest.mark.filterwarnings(
    "ignore:You are using the `dataloader_iter` step", "ignore:Found `dataloader_iter` argument"
)
def test_a_step_that_draws_for_itself_is_not_known() -> None:
    class Drawing(Summing):
        def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:
            batch, _, _ = next(dataloader_iter)
            said.append(noting.samples and noting.samples.draws())
            return super().training_step(batch, 0)

    said: list[Any] = []
    noting, model = Noting(), Drawing()
    model.train_dataloader = numbers()  # type: ignore[method-assign]
    quiet_trainer(callbacks=[noting], limit_val_batches=0).fit(model)
    assert said
    assert all(draws == {"batch": None} for draws in said)


class Resumable(DataLoader[Any]):
    """Goes on in the middle of an epoch, as ``torchdata.stateful_dataloader`` does: draws what was given, unused."""

    given = 0
    passed = 0

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passed = state["given"]

    def _get_iterator(self) -> Any:
        iterator = super()._get_iterator()  # type: ignore[misc]
        for _ in range(self.passed):
            next(iterator._sampler_iter)
        self.given, self.passed = self.passed, 0
        return iterator


def test_resumed_within_an_epoch(tmp_path: Any) -> None:
    class Keeping(Noting):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.train_dataloader.given = len(self.held)  # type: ignore[union-attr]
            if len(self.held) == 3:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    whole, rest = Keeping(), Noting()
    fit(lambda: Resumable(Numbers(), 4), whole, max_epochs=1)

    class Model(Summing):
        def train_dataloader(self) -> Any:
            return Resumable(Numbers(), 4)

    quiet_trainer(callbacks=[rest], max_epochs=1, limit_val_batches=0).fit(Model(), ckpt_path=tmp_path / "middle.ckpt")
    assert rest.said == rest.held == whole.held[3:]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_plain_loader_begins_anew_when_resumed(tmp_path: Any) -> None:
    class Keeping(Noting):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if len(self.held) == 3:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    whole, rest = Keeping(), Noting()
    fit(numbers(), whole, max_epochs=1)
    model = Summing()
    model.train_dataloader = numbers()  # type: ignore[method-assign]
    quiet_trainer(callbacks=[rest], max_epochs=1, limit_val_batches=0).fit(model, ckpt_path=tmp_path / "middle.ckpt")
    assert rest.said == rest.held == whole.held[:3]


def test_leaves_no_trace() -> None:
    loader = DataLoader(Numbers(), 4)
    before = dict(vars(loader))
    seen: list[tuple[bool, bool]] = []

    class Looking(Noting):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            super().on_train_batch_start(trainer, *args)
            now: Any = trainer.train_dataloader
            seen.append((type(now.batch_sampler) is BatchSampler, type(now.sampler) is SequentialSampler))
            for twin in (copy.deepcopy(now), pickle.loads(pickle.dumps(now))):  # opens plainly, for itself
                assert held(next(iter(twin))) == (0, 1, 2, 3)

    noting = Looking()
    trainer = quiet_trainer(callbacks=[noting], limit_val_batches=0)
    trainer.fit(Summing(), loader)
    assert seen
    assert all(all(plain) for plain in seen)
    assert noting.said == noting.held
    assert vars(loader) == before
    assert "process_dataloader" not in vars(trainer.strategy)


def test_two_watchers_do_not_disturb_each_other() -> None:
    first, second = Noting(), Noting()
    trainer = quiet_trainer(callbacks=[first, second], max_epochs=2, limit_val_batches=0)
    model = Summing()
    model.train_dataloader = numbers(shuffle=True)  # type: ignore[method-assign]
    trainer.fit(model)
    assert first.said == second.said == first.held
    assert "_get_iterator" not in vars(trainer.train_dataloader)
    assert "process_dataloader" not in vars(trainer.strategy)


def test_survives_copies() -> None:
    samples = pickle.loads(pickle.dumps(copy.deepcopy(SampleIndices())))
    assert samples.draws() == {}
    assert samples.traceable() == {}
    samples.end()


def joined(items: list[Tensor]) -> Tensor:
    return torch.cat([item[None].expand(2, -1) for item in items])


def backwards(items: list[Tensor]) -> Tensor:
    return torch.stack(items[::-1])


class Hooked(Summing):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch.flip(0)


@pytest.mark.parametrize(
    ("kind", "settings", "indices", "doubt"),
    [
        (Summing, {}, (5, 6), ""),
        (Summing, {"collate_fn": backwards}, (5, 6), "if `collate_fn` keeps the order"),
        (Summing, {"collate_fn": joined}, (4, 5, 6, 7), "not told apart"),
        (Hooked, {}, (5, 6), "if `on_after_batch_transfer` keeps the order"),
        (
            Hooked,
            {"collate_fn": backwards},
            (5, 6),
            "if `collate_fn` and `on_after_batch_transfer` keep the order",
        ),
        (Summing, {"batch_size": None}, (1,), ""),
    ],
    ids=["plain", "collate", "joined", "hook", "both", "one-by-one"],
)
def test_blames_with_its_doubts(
    kind: type[Summing], settings: dict[str, Any], indices: tuple[int, ...], doubt: str
) -> None:
    blamed: list[Any] = []

    class Blaming(Noting):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            assert self.samples is not None
            origin = Origin("batch", "bad-sample", names=("batch",), samples=(1, 2))
            blamed.append(self.samples.blame(pl_module, batch, origin))
            assert self.samples.culprits is blamed[-1]
            assert self.samples.blame(pl_module, batch, None) is None
            assert self.samples.culprits is None

    model = kind()
    model.train_dataloader = numbers(**settings)  # type: ignore[method-assign]
    quiet_trainer(callbacks=[Blaming()], limit_val_batches=0).fit(model)
    assert (blamed[1].indices, blamed[1].doubt) == (indices, doubt)
    assert blamed[1].draw.single == (settings.get("batch_size", 4) is None)


def two_ranks(rank: int) -> list[tuple[Any, Any]]:
    ends = []
    for make in (
        numbers(shuffle=True),
        lambda: DataLoader(Numbers(), 4, sampler=WeightedRandomSampler([1.0] * 23, 23)),
    ):
        noting = Noting()
        fit(make, noting, strategy=gloo(), devices=2, max_epochs=2)
        ends.append((noting.said, noting.held))
    return ends


def test_on_two_ranks() -> None:
    first, second = on_two_ranks(two_ranks)
    for (said, held), (other, other_held) in zip(first, second, strict=True):
        assert said == held
        assert other == other_held
        assert said != other
    drawn = {index for batch in first[0][0][:3] + second[0][0][:3] for index in batch["batch"]}
    assert drawn == set(range(SAMPLES))


def test_recorder_and_sieve_pass_on_what_is_asked() -> None:
    sampler = BatchSampler(SequentialSampler(range(10)), 4, drop_last=True)
    for through in (Recorder(sampler, depth=2), Sieve(sampler, {1}, keep_size=False)):
        assert len(through) == 2
        assert through.drop_last
        assert through.sampler is sampler.sampler
        assert copy.deepcopy(through).batch_size == 4
        with pytest.raises(AttributeError):
            _ = through.nothing


@pytest.mark.parametrize(
    ("draw", "indices"),
    [
        (3, (3,)),
        ([3, 4], (3, 4)),
        ((), ()),
        (torch.tensor([3, 4]), (3, 4)),
        (torch.tensor(3), (3,)),
        ([torch.tensor(3), 4], (3, 4)),
        (["a"], None),
        ([(1, 2)], None),
        (slice(3), None),
        ([1.5], None),
    ],
)
def test_indices_of(draw: Any, indices: tuple[int, ...] | None) -> None:
    assert indices_of(draw) == indices
