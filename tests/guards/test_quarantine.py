"""``NanLossGuard(quarantine=...)``: a bad sample comes once, and nothing else moves from its place."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, WeightedRandomSampler

from lightning_tuning import Journal, NanLossGuard, TuningError
from lightning_tuning.guards import _quarantine
from lightning_tuning.guards._quarantine import Quarantine
from lightning_tuning.guards._quarantine_file import (
    QuarantineError,
    Ward,
    fingerprint,
    parts_from_plain,
    read_quarantine,
    write_quarantine,
)
from lightning_tuning.guards._sieve import Sieve
from tests.helpers import Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")

SAMPLES = 40


class Items(Dataset[tuple[Tensor, int, int]]):
    """Blob-like samples that know their index; those in ``bad`` hold a NaN."""

    def __init__(self, bad: tuple[int, ...] = (), samples: int = SAMPLES, value: float = float("nan")) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 8, generator=generator)
        self.clean = self.x.clone()
        self.x[list(bad), 3] = value

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.x[index], int(self.clean[index].sum() > 0), index


class Model(Mlp):
    """Notes the indices of every batch, by epoch."""

    def __init__(self, loader: Callable[[], Any]) -> None:
        super().__init__()
        self.loader = loader
        self.seen: dict[int, list[list[int]]] = {}

    def train_dataloader(self) -> Any:
        return self.loader()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = map(torch.as_tensor, batch)
        self.seen.setdefault(self.current_epoch, []).append(index.reshape(-1).tolist())
        return F.cross_entropy(self(x.reshape(-1, 8)), y.reshape(-1))


def loader(bad: tuple[int, ...] = (), **settings: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(Items(bad), **{"batch_size": 4, "shuffle": "sampler" not in settings, **settings})


def fit(
    make: Callable[[], Any], quarantine: Any, *, kind: type[Model] = Model, action: str = "skip", **settings: Any
) -> tuple[pl.Trainer, Model, NanLossGuard]:
    resume = settings.pop("ckpt_path", None)
    model, guard = kind(make), NanLossGuard(action, quarantine=quarantine)  # type: ignore[arg-type]
    trainer = quiet_trainer(
        callbacks=[guard, *settings.pop("callbacks", [])], **{"max_epochs": 3, "limit_val_batches": 0, **settings}
    )
    torch.manual_seed(5)
    trainer.fit(model, ckpt_path=resume)
    return trainer, model, guard


def left_out(path: Path, part: str = "batch") -> list[int]:
    return [sample["index"] for sample in json.loads(path.read_text())["parts"][part]["samples"]]


def without(batches: list[list[int]], bad: tuple[int, ...]) -> list[list[int]]:
    return [[index for index in batch if index not in bad] for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_comes_once_and_never_again(tmp_path: Path, workers: int) -> None:
    path, bad = tmp_path / "bad.json", (17, 3)
    trainer, model, guard = fit(loader(bad, num_workers=workers), path)
    _, plain, _ = fit(loader(num_workers=workers), False)

    assert 1 <= guard.skipped <= 2  # both in one batch, or not
    assert model.seen[0] == plain.seen[0]
    for epoch in (1, 2):
        assert model.seen[epoch] == without(plain.seen[epoch], bad)
        assert model.seen[epoch] != plain.seen[epoch]
    assert left_out(path) == [3, 17]
    journal = Journal.of(trainer)
    (finding,) = journal.findings
    assert finding.evidence["cause"] == "bad-sample"
    first = int(str(finding.evidence["dataset_indices"]).split(",", maxsplit=1)[0])
    assert first in bad
    assert f"quarantined dataset ind{'ex' if guard.skipped == 2 else 'ices'}" in finding.message
    assert f"quarantined 2 of {SAMPLES} samples: 3, 17 ({path})" in journal.notes


def test_a_healthy_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    _, first, _ = fit(loader(), tmp_path / "bad.json")
    _, second, _ = fit(loader(), False)
    assert first.seen == second.seen
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not list(tmp_path.iterdir())


def test_the_file_alone_is_enough(tmp_path: Path) -> None:
    path, bad = tmp_path / "bad.json", (17, 3)
    with pytest.raises(TuningError, match="quarantined dataset ind"):
        fit(loader(bad), path, action="raise")
    found = left_out(path)
    assert found
    with pytest.raises(TuningError) if len(found) == 1 else contextlib.nullcontext():
        fit(loader(bad), path, action="raise")
    trainer, model, guard = fit(loader(bad), str(path), action="raise")
    _, plain, _ = fit(loader(), False)
    assert left_out(path) == [3, 17]
    assert not Journal.of(trainer).findings
    assert guard.skipped == 0
    assert all(model.seen[epoch] == without(plain.seen[epoch], bad) for epoch in range(3))


def test_the_checkpoint_alone_is_enough(tmp_path: Path) -> None:
    path, bad = tmp_path / "bad.json", (17,)

    class Saving(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    fit(loader(bad), path, callbacks=[Saving()])
    path.unlink()
    torch.load(tmp_path / "0.ckpt", weights_only=True)
    trainer, model, guard = fit(loader(bad), path, ckpt_path=tmp_path / "0.ckpt")
    assert guard.skipped == 1  # of the first epoch, as the checkpoint counts
    assert [finding.count for finding in Journal.of(trainer).findings] in ([1], [])
    assert sorted(model.seen) == [1, 2]
    assert all(len(batches) == SAMPLES // 4 for batches in model.seen.values())
    assert not any(17 in batch for batches in model.seen.values() for batch in batches)
    assert f"quarantined 1 of {SAMPLES} samples: 17 ({path})" in Journal.of(trainer).notes


def test_default_place(tmp_path: Path) -> None:
    fit(loader((17,)), True, default_root_dir=tmp_path, max_epochs=1)
    assert left_out(tmp_path / "quarantine.json") == [17]


def test_a_checkpoint_of_other_data_is_left_aside(tmp_path: Path) -> None:
    class Saving(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    fit(loader((17,)), tmp_path / "first.json", callbacks=[Saving()], max_epochs=1)
    more = tmp_path / "second.json"
    trainer, model, _ = fit(lambda: DataLoader(Items((), 48), 4), more, ckpt_path=tmp_path / "end.ckpt", max_epochs=2)
    assert any(17 in batch for batch in model.seen[1])
    assert any("the checkpoint's quarantine is of Items" in note for note in Journal.of(trainer).notes)
    assert not more.exists()


def backwards(items: list[Any]) -> list[Tensor]:
    return [torch.stack([torch.as_tensor(column) for column in columns]) for columns in zip(*items[::-1], strict=True)]


def joined(items: list[Any]) -> list[Tensor]:
    return [part.repeat_interleave(2, dim=0) for part in backwards(items)]


def fragile(items: list[Any]) -> list[Tensor]:
    if len(items) < 2:
        raise ValueError("needs two")
    return backwards(items)


class Mixing(Model):
    """Rows are mixed on the device: the NaN of one comes into another."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y, index = batch
        return x + 0.1 * x.roll(1, 0), y, index


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Model, {"collate_fn": backwards}),
        (Model, {"collate_fn": joined}),
        (Mixing, {}),
        (Model, {"batch_size": None}),
        (Model, {"batch_size": 1}),
        (Model, {"drop_last": True, "batch_size": 5}),
    ],
    ids=["backwards", "joined", "mixing", "one-by-one", "one", "drop-last"],
)
def test_only_the_bad_one(tmp_path: Path, kind: type[Model], settings: dict[str, Any]) -> None:
    path = tmp_path / "bad.json"
    _, model, guard = fit(loader((17,), **settings), path, kind=kind)
    assert left_out(path) == [17]
    assert guard.skipped == 1
    epochs = [[index for batch in model.seen[epoch] for index in batch] for epoch in range(3)]
    assert 17 in epochs[0]
    assert 17 not in epochs[1] + epochs[2]
    assert len({len(batches) for batches in model.seen.values()}) == 1
    if settings.get("batch_size") in (1, 5):
        assert {len(batch) for batches in model.seen.values() for batch in batches} == {settings["batch_size"]}


def test_not_told_apart_is_not_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    trainer, _, guard = fit(loader((17,), collate_fn=fragile), path)
    assert guard.skipped == 3
    assert not path.exists()
    (finding,) = Journal.of(trainer).findings
    assert "nothing quarantined: none of the batch's items is bad when it is read again, alone" in finding.message
    assert "if `collate_fn` keeps the order" in finding.message


def test_reading_again_draws_nothing(tmp_path: Path) -> None:
    class Noisy(Items):
        def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
            x, y, _ = super().__getitem__(index)
            return x + 0.01 * torch.randn(8), y, index

    def run(quarantine: Any) -> Model:
        return fit(lambda: DataLoader(Noisy((17,)), 4, collate_fn=backwards), quarantine, max_epochs=1)[1]

    one, other = run(tmp_path / "bad.json"), run(False)
    assert left_out(tmp_path / "bad.json") == [17]
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


def test_other_causes_put_nobody_into_quarantine(tmp_path: Path) -> None:
    class Logarithm(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss + (batch[2] - 17).abs().float().log().mean() * 0 if 17 in batch[2] else loss

    trainer, _, guard = fit(loader(), tmp_path / "bad.json", kind=Logarithm)
    assert guard.skipped == 3
    assert Journal.of(trainer).findings[0].evidence["cause"] == "log-of-zero"
    assert not list(tmp_path.iterdir())


def test_weighted_with_replacement_is_over_at_once(tmp_path: Path) -> None:
    def make() -> DataLoader[Any]:
        weights = [5.0 if index == 17 else 1.0 for index in range(SAMPLES)]
        return DataLoader(Items((17,)), 4, sampler=WeightedRandomSampler(weights, 200))

    _, model, guard = fit(make, tmp_path / "bad.json", max_epochs=1)
    assert guard.skipped == 1
    assert sum(17 in batch for batch in model.seen[0]) == 1
    assert len(model.seen[0]) == 50


def test_of_several_loaders(tmp_path: Path) -> None:
    class Two(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], 0) + super().training_step(batch["b"], 0)

    path = tmp_path / "bad.json"
    trainer, model, guard = fit(lambda: {"a": loader()(), "b": loader((17,), batch_size=8)()}, path, kind=Two)
    assert guard.skipped == 1  # the shorter loader begins again within the first epoch, without it
    assert left_out(path, "batch['b']") == [17]
    assert "batch['a']" not in json.loads(path.read_text())["parts"]
    assert any(17 in batch for batch in model.seen[1][::2])
    assert not any(17 in batch for batch in model.seen[1][1::2])
    assert f"quarantined 1 of {SAMPLES} samples in batch['b']: 17 ({path})" in Journal.of(trainer).notes


def test_half_of_the_data_is_too_much(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    with pytest.raises(TuningError, match="not quarantined: more than half of the 40 samples would be left out"):
        fit(loader(tuple(range(SAMPLES)), batch_size=20), path, max_epochs=10)
    assert len(left_out(path)) == SAMPLES // 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([Items()[index] for index in range(SAMPLES)])


@pytest.mark.parametrize(
    "make",
    [lambda: DataLoader(Stream(), 4), lambda: DataLoader(Items(), 4, num_workers=2, in_order=False)],
    ids=["stream", "out-of-order"],
)
def test_refuses_what_has_no_indices(tmp_path: Path, make: Callable[[], Any]) -> None:
    with pytest.raises(MisconfigurationException, match="`quarantine` needs a training DataLoader"):
        fit(make, tmp_path / "bad.json")


def test_notes_which_loader_has_no_indices(tmp_path: Path) -> None:
    class Two(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], 0)

    def make() -> Any:
        return {"a": loader()(), "b": DataLoader(Items(), 4, num_workers=1, in_order=False)}

    trainer, _, _ = fit(make, tmp_path / "bad.json", kind=Two, max_epochs=1)
    assert "NanLossGuard can quarantine nothing in batch['b']: not drawn by index" in Journal.of(trainer).notes


def plain_file(**changes: Any) -> str:
    part = {"dataset": "Items", "length": SAMPLES, "samples": [{"index": 3, "why": "NaN"}]}
    return json.dumps({"format": "lightning-tuning quarantine", "version": 1, "parts": {"batch": part}} | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"a": 1}',
        plain_file(version=2),
        plain_file(format="other"),
        plain_file(parts=[3]),
        plain_file(parts={"batch": {"dataset": "Items", "length": 2, "samples": [{"index": 3, "why": ""}]}}),
        plain_file(parts={"batch": {"dataset": "Items", "length": 2, "samples": [{"index": -1, "why": ""}]}}),
        plain_file(parts={"batch": {"dataset": "Items", "length": 9, "samples": [3]}}),
        plain_file()[:-20],
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(QuarantineError, match=r"bad\.json is no quarantine file, or a damaged one"):
        read_quarantine(path)
    with pytest.raises(MisconfigurationException, match=r"`quarantine`: .*bad\.json is no quarantine file"):
        fit(loader(), path)
    assert path.read_text() == text


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="is no quarantine file"):
        fit(loader(), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataLoader(Items((), 48), 4), "this run trains on Items of 48"),
        (lambda: DataLoader(Subset(Items((), 80), range(SAMPLES)), 4), "this run trains on Subset .* of Items of 40"),
        (lambda: {"a": loader()()}, "this run has no such part"),
    ],
    ids=["longer", "subset", "other-part"],
)
def test_a_file_of_other_data_is_refused(tmp_path: Path, make: Callable[[], Any], message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(plain_file())
    with pytest.raises(MisconfigurationException, match=rf"bad\.json is of other data: .*{message}"):
        fit(make, path)


def test_a_remote_folder_needs_a_path() -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard(quarantine="s3://bucket/bad.json")], limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match="`quarantine` needs a local file"):
        trainer.fit(Mlp())


@pytest.mark.parametrize("value", [1, None, "", 2.5, ["a"]])
def test_refuses_bad_arguments(value: Any) -> None:
    with pytest.raises(ValueError, match="`quarantine` must be True, False or the path of a file"):
        NanLossGuard(quarantine=value)


def test_a_full_disk_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(_quarantine, "write_quarantine", full)
    trainer, model, guard = fit(loader((17,)), tmp_path / "bad.json")
    assert guard.skipped == 1
    assert not any(17 in batch for batch in model.seen[1] + model.seen[2])
    (finding,) = Journal.of(trainer).findings
    assert "which could not be written (No space left on device)" in finding.message


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deeper" / "bad.json"
    write_quarantine(path, {"batch": Ward("Items", 9, {3: "NaN"})})
    before = path.read_text()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_quarantine(path, {"batch": Ward("Items", 9, {3: "NaN", 4: "inf"})})
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]
    assert read_quarantine(path) == {"batch": Ward("Items", 9, {3: "NaN"})}


def test_fingerprint_of_a_subset_knows_its_items() -> None:
    data = Items()
    first, again, other = (fingerprint(Subset(data, items)) for items in ([1, 2], [1, 2], [1, 3]))
    assert first.fits(again)
    assert not first.fits(other)
    assert fingerprint(Subset(data, list(range(2)))).dataset.endswith("of Items")
    assert fingerprint({"a": 1}) == Ward("dict", 1)


def test_state_is_plain() -> None:
    state = {"batch": Ward("Items", None, {3: "NaN", 1: "inf"}).to_plain()}
    assert json.loads(json.dumps(state)) == state
    assert parts_from_plain(state) == {"batch": Ward("Items", None, {3: "NaN", 1: "inf"})}


@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), max_size=8),
    bad=st.sets(st.integers(0, 12)),
    keep_size=st.booleans(),
)
def test_sieve(batches: list[list[int]], bad: set[int], *, keep_size: bool) -> None:
    sifted = list(Sieve(batches, bad, keep_size=keep_size))
    assert len(sifted) == len(batches)
    if all(index in bad for batch in batches for index in batch):
        assert sifted == batches  # nothing to fill them with
        return
    for before, after in zip(batches, sifted, strict=True):
        good = [index for index in before if index not in bad]
        assert not bad.intersection(after)
        assert {index for batch in batches for index in batch}.issuperset(after)
        assert len(after) == (len(before) if keep_size else max(len(good), min(2, len(before))))
        rest = iter(after)
        assert all(index in rest for index in good)  # in their order
        if keep_size:
            assert all(now == was for was, now in zip(before, after, strict=True) if was not in bad)


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        ([3, 1, 4, 1], [3, 3, 4, 4]),
        ([1, 3], [3, 3]),
        ([(0, 1, 2)], [(0, 2)]),
        ([torch.tensor([0, 1, 2])], [[0, 2]]),
        ([np.array([0, 1, 2], dtype=np.int32)], [[0, 2]]),
        ([torch.tensor(1), torch.tensor(2)], [2, 2]),
        ([["a", "b"]], [["a", "b"]]),
    ],
)
def test_sieve_keeps_the_kind(draws: list[Any], expected: list[Any]) -> None:
    sifted = list(Sieve(draws, {1}, keep_size=False))
    assert [draw.tolist() if hasattr(draw, "tolist") else draw for draw in sifted] == expected
    for before, after in zip(draws, sifted, strict=True):
        assert type(after) is type(before)
        assert getattr(after, "dtype", None) == getattr(before, "dtype", None)


def test_answers_nothing_without_a_batch() -> None:
    guard = NanLossGuard(quarantine=True)
    (quarantine,) = (response for response in guard._responses if isinstance(response, Quarantine))
    assert quarantine.notes() == []
    assert quarantine.state_dict() == {}


def two_ranks(rank: int, folder: str) -> dict[str, Any]:
    path = Path(folder) / "bad.json"
    trainer, model, guard = fit(loader((17, 30, 4)), path, strategy=gloo(), devices=2)
    again, later, _ = fit(loader((17, 30, 4)), path, action="raise", strategy=gloo(), devices=2)
    return {
        "seen": model.seen,
        "skipped": guard.skipped,
        "findings": [finding.to_dict() for finding in Journal.of(trainer).findings],
        "later": later.seen,
        "later_findings": len(Journal.of(again).findings),
        "state": guard.tuning_state()["responses"]["Quarantine"],
        "parameters": [parameter.detach().clone() for parameter in model.parameters()],
        "file": path.read_text(),
    }


def test_on_two_ranks(tmp_path: Path) -> None:
    ends = on_two_ranks(two_ranks, str(tmp_path))
    first, second = ends
    for key in ("skipped", "state", "file", "later_findings", "findings"):
        assert first[key] == second[key], key
    assert left_out(tmp_path / "bad.json") == [4, 17, 30]
    assert [sample["index"] for sample in first["state"]["batch"]["samples"]] == [4, 17, 30]
    assert first["later_findings"] == 0
    for one, other in zip(first["parameters"], second["parameters"], strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()
    for seen in (first["seen"], second["seen"], first["later"], second["later"]):
        assert {len(batches) for batches in seen.values()} == {SAMPLES // 8}
    for epoch in (1, 2):
        drawn = [index for end in ends for batch in end["seen"][epoch] for index in batch]
        assert sorted(drawn) == sorted(set(range(SAMPLES)) - {4, 17, 30})
