"""Every file of weights that people have, into modules that fit, nearly fit, and do not."""

from __future__ import annotations

import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

from lightning_tuning.functional import load_state
from lightning_tuning.functional.state_file import plain, read_state_file, write_pth, write_safetensors
from lightning_tuning.functional.state_names import likely_prefix, name_cleaner
from tests.helpers import Mlp, quiet_trainer


class Net(nn.Module):
    """A layer, a batch norm and a head, and a mask that is no weight."""

    def __init__(self, width: int = 4, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width, dtype=dtype)
        self.norm = nn.BatchNorm1d(width, dtype=dtype)
        self.head = nn.Linear(width, 2, dtype=dtype)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))


class Tied(nn.Module):
    """Two names for one matrix, and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def prefixed(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in net.state_dict().items()}


WRITERS: dict[str, tuple[Callable[[nn.Module, Path], object], str | None]] = {
    "a bare state dict": (lambda net, path: torch.save(net.state_dict(), path), None),
    "the old format of torch": (
        lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
        None,
    ),
    "the four keys": (
        lambda net, path: torch.save(
            {"model": net.state_dict(), "optimizer": {"state": {}}, "scheduler": None, "iteration": 3}, path
        ),
        None,
    ),
    "a checkpoint of Lightning's": (
        lambda net, path: torch.save({"epoch": 1, "state_dict": prefixed(net, "net."), "loops": {}}, path),
        "net.",
    ),
    "safetensors": (lambda net, path: save_file(net.state_dict(), path), None),
    "safetensors of a model": (lambda net, path: save_model(net, str(path)), None),
    "compiled": (lambda net, path: torch.save(prefixed(net, "_orig_mod."), path), None),
    "parallel": (lambda net, path: torch.save(prefixed(net, "module."), path), None),
    "compiled inside": (lambda net, path: torch.save(prefixed(net, "net._orig_mod."), path), "net"),
    "our pth": (lambda net, path: write_pth(path, net.state_dict()), None),
    "our safetensors": (lambda net, path: write_safetensors(path, net.state_dict()), None),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_file_is_read(writer: str, tmp_path: Path) -> None:
    write, prefix = WRITERS[writer]
    source, target = Net(), Net()
    with torch.no_grad():
        source.norm.running_mean.add_(1)
        source.norm.num_batches_tracked.add_(7)
    write(source, tmp_path / "file")  # the ending says nothing
    report = load_state(tmp_path / "file", target, prefix=prefix)
    assert same(source, target)
    assert report.is_complete
    assert set(report.loaded) == set(target.state_dict())
    assert repr(report) == "file: 10 loaded"


def test_a_real_checkpoint_of_lightning(tmp_path: Path) -> None:
    trainer, model = quiet_trainer(max_steps=2), Mlp()
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    other = Mlp(seed=1)
    load_state(tmp_path / "run.ckpt", other)
    assert same(model, other)
    bare = Mlp(seed=1).net
    load_state(tmp_path / "run.ckpt", bare, prefix="net.")
    assert same(model.net, bare)


def test_strict_lists_everything_and_touches_nothing(tmp_path: Path) -> None:
    state = Net(6).state_dict()
    state["layer.wieght"] = state.pop("layer.weight")
    torch.save(state, tmp_path / "a.pth")
    target = Net()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit Net; nothing was loaded") as caught:
        load_state(tmp_path / "a.pth", target)
    said = str(caught.value)
    assert "missing layer.weight (near: layer.wieght)" in said
    assert "unexpected layer.wieght (near: layer.weight)" in said
    assert "mismatched head.weight: [2, 6] in the file, [2, 4] in the module" in said
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_not_strict_loads_what_fits_and_says_what_not(tmp_path: Path) -> None:
    source, target = Net(6), Net()
    torch.save({**source.state_dict(), "other": torch.zeros(1)}, tmp_path / "a.pth")
    report = load_state(tmp_path / "a.pth", target, strict=False)
    assert set(report.loaded) == {"head.bias", "mask", "norm.num_batches_tracked"}
    assert torch.equal(target.head.bias, source.head.bias)
    assert report.unexpected == {"other": ()}
    assert len(report.mismatched) == 7
    assert not report.is_complete
    assert repr(report).splitlines()[0] == "a.pth: 3 loaded, 1 unexpected, 7 mismatched"


@pytest.mark.parametrize(
    ("theirs", "own", "said"),
    [
        (torch.float64, torch.float32, "float64 to float32"),
        (torch.float16, torch.float32, "float16 to float32"),
        (torch.float32, torch.bfloat16, "float32 to bfloat16"),
    ],
)
def test_casts_are_told(theirs: torch.dtype, own: torch.dtype, said: str, tmp_path: Path) -> None:
    source, target = Net(dtype=theirs), Net(dtype=own)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    report = load_state(tmp_path / "a.pth", target)
    assert report.cast["layer.weight"] == said
    assert "mask" not in report.cast
    assert target.layer.weight.dtype == own
    assert torch.equal(target.layer.weight, source.layer.weight.to(own))


@pytest.mark.parametrize(
    ("theirs", "own"), [(torch.zeros(2), torch.zeros(2, dtype=torch.long)), (torch.zeros(2) + 1j, torch.zeros(2))]
)
def test_a_cast_that_loses_is_a_mismatch(theirs: Tensor, own: Tensor, tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("x", own)
    torch.save({"x": theirs}, tmp_path / "a.pth")
    assert "in the module" in load_state(tmp_path / "a.pth", module, strict=False).mismatched["x"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_not_finite(bad: float, strict: bool, tmp_path: Path) -> None:
    source, target = Net(), Net()
    with torch.no_grad():
        source.layer.weight[1, 2] = bad
        source.head.bias[0] = bad
    torch.save(source.state_dict(), tmp_path / "a.pth")
    before = target.layer.bias.clone()
    with pytest.raises(ValueError, match=r"layer\.weight and 1 more not finite"):
        load_state(tmp_path / "a.pth", target, strict=strict)
    assert torch.equal(target.layer.bias, before)
    load_state(tmp_path / "a.pth", target, strict=strict, allow_non_finite=True)
    assert torch.equal(target.layer.bias, source.layer.bias)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_tied_weights(suffix: str, tmp_path: Path) -> None:
    source, target = Tied(), Tied()
    path = tmp_path / f"a.{suffix}"
    (write_pth if suffix == "pth" else write_safetensors)(path, source.state_dict())
    assert path.stat().st_size < 2 * 15 * 4 + 1800  # one matrix, not two
    assert load_state(path, target).is_complete
    assert torch.equal(target.embed.weight, source.embed.weight)
    assert target.head.weight is target.embed.weight
    if suffix == "safetensors":  # theirs reads ours, too
        third = Tied()
        load_model(third, str(path))
        assert same(third, source)


def test_one_name_of_tied_weights_is_enough(tmp_path: Path) -> None:
    source, target = Tied(), Tied()
    torch.save({"embed.weight": source.embed.weight.detach()}, tmp_path / "a.pth")
    assert load_state(tmp_path / "a.pth", target).missing == {}
    assert torch.equal(target.head.weight, source.embed.weight)


def test_wrapped_targets(tmp_path: Path) -> None:
    source = Net()
    torch.save(source.state_dict(), tmp_path / "a.pth")
    for wrap in (functools.partial(torch.compile, backend="eager"), nn.DataParallel):
        target = Net()
        load_state(tmp_path / "a.pth", wrap(target))
        assert same(source, target)


def test_lazy_layers_take_their_shape_from_the_file(tmp_path: Path) -> None:
    source, target = nn.Linear(3, 2), nn.LazyLinear(2)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    load_state(tmp_path / "a.pth", target)
    assert torch.equal(target.weight, source.weight)


def test_extra_state_is_carried(tmp_path: Path) -> None:
    class Counts(nn.Linear):
        seen = 0

        def get_extra_state(self) -> Any:
            return {"seen": self.seen}

        def set_extra_state(self, state: Any) -> None:
            self.seen = state["seen"]

    source, target = Counts(2, 2), Counts(2, 2)
    source.seen = 5
    torch.save(source.state_dict(), tmp_path / "a.pth")
    load_state(tmp_path / "a.pth", target)
    assert target.seen == 5


def test_a_prefix_that_would_fit_is_named(tmp_path: Path) -> None:
    net = Net()
    torch.save({**prefixed(net, "backbone.net."), "loss.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"`prefix='backbone\.net\.'` fits 10 of 10 names"):
        load_state(tmp_path / "a.pth", Net())
    torch.save(net.state_dict(), tmp_path / "b.pth")
    with pytest.raises(ValueError, match="those of the module's `1`: load into that"):
        load_state(tmp_path / "b.pth", nn.Sequential(nn.ReLU(), Net()))
    with pytest.raises(ValueError, match=r"`prefix` must be in front of a name .*got 'nett'; they start with \['back"):
        load_state(tmp_path / "a.pth", net, prefix="nett")


def test_a_whole_module_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"pickled objects \(torch\.nn.*a whole module perhaps.*state_dict\(\)"):
        load_state(tmp_path / "a.pth", nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no file of torch.save"),
        (b"nonsense, and more of it", "is no file of torch.save"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{", "is no file of torch.save"),
        (pickle.dumps(Path("a")), "is no file of torch.save|pickled objects"),
    ],
)
def test_what_is_no_such_file(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        load_state(tmp_path / "a", Net())


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "weights": {"a": 1}}, torch.zeros(2)])
def test_what_holds_no_state(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_state(tmp_path / "a", Net())


def test_a_damaged_file(tmp_path: Path) -> None:
    write_pth(tmp_path / "a", Net().state_dict())
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"a (is no|cannot)"):
        load_state(tmp_path / "a", Net())


def test_no_file() -> None:
    with pytest.raises(FileNotFoundError):
        load_state("nowhere.pth", Net())


def test_an_empty_state(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a")
    assert load_state(tmp_path / "a", nn.ReLU()).loaded == ()
    with pytest.raises(ValueError, match=r"missing layer\.weight"):
        load_state(tmp_path / "a", Net())


def test_plain_keeps_values_and_drops_classes(tmp_path: Path) -> None:
    import numpy as np

    big = torch.arange(1000.0)
    content = OrderedDict(view=big[10:12], rate=np.float64(0.5), nested=[(1, "a", None)], grad=nn.Parameter(big[:3]))
    write_pth(tmp_path / "a", content)
    assert (tmp_path / "a").stat().st_size < 3000  # not the whole of what it is a view of
    read = read_state_file(tmp_path / "a")
    assert type(read) is dict
    assert torch.equal(read["view"], torch.tensor([10.0, 11.0]))
    assert (type(read["rate"]), read["nested"]) == (float, [(1, "a", None)])
    assert type(read["grad"]) is Tensor
    with pytest.raises(ValueError, match=r"^a\[0\]\.b is a function"):
        plain({"a": [{"b": lambda: 0}]})


def test_safetensors_take_tensors_only(tmp_path: Path) -> None:
    for value in (3, torch.eye(2).to_sparse()):
        with pytest.raises(ValueError, match="safetensors holds dense tensors only"):
            write_safetensors(tmp_path / "a", {"x": value})


def test_overlapping_views_each_keep_their_values(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    state = {"all": base, "half": base[:3], "turned": base.view(2, 3).T, "none": torch.zeros(0)}
    for write in (write_pth, write_safetensors):
        write(tmp_path / "a", state)
        read = read_state_file(tmp_path / "a")
        assert all(torch.equal(read[name], value) for name, value in state.items())


NAMES = st.lists(st.lists(st.sampled_from(["a", "b", "net", "0"]), min_size=1, max_size=3).map(".".join), unique=True)


@given(NAMES, st.sampled_from(["x.", "net.", "a.b."]))
def test_a_prefix_put_in_front_is_found(names: list[str], prefix: str) -> None:
    found, count = likely_prefix([prefix + name for name in names], set(names))
    assert count >= len(names) * (found == prefix)
    assert (count > 0) == bool(names)


def test_only_wrappers_are_looked_through() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(1, 1)

    plain_holder, compiled = Holder(), torch.compile(nn.Sequential(nn.DataParallel(Holder())), backend="eager")
    assert [name_cleaner(plain_holder)(name) for name in plain_holder.state_dict()] == ["module.weight", "module.bias"]
    assert [name_cleaner(compiled)(name) for name in compiled.state_dict()] == ["0.module.weight", "0.module.bias"]


def test_a_lightning_module_is_a_target_too(tmp_path: Path) -> None:
    class Lit(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(Net(), backend="eager")

    source = Net()
    torch.save(prefixed(source, "net."), tmp_path / "a.pth")
    target = Lit()
    load_state(tmp_path / "a.pth", target)
    assert same(source, target.net._orig_mod)
