"""Two processes on gloo that hold pieces of the gradients: the norms of both are those of the whole gradients.

All runs share one pair of processes: starting them takes longer than training. Each rank sees one half of every batch,
the process they are compared with the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.utils.data import DataLoader, Subset

from lightning_tuning.measure import Meter, Reading
from lightning_tuning.measure.sharding import sharded_norms
from lightning_tuning.monitors import GradientExplosionMonitor
from lightning_tuning.runtime import Desk, TuningCallback
from tests.helpers import TinyModule, blobs, quiet_trainer
from tests.ranks import on_two_ranks

STEPS = 4


class Uneven(TinyModule):
    """Sizes that two ranks can't share equally: 3 rows, 3 elements, 1 element; and a weight that no loss reaches."""

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "body": nn.Sequential(nn.Linear(8, 15), nn.Tanh(), nn.Linear(15, 3)),
                "factor": nn.ParameterList([nn.Parameter(torch.ones(1))]),
                "unused": nn.Linear(2, 2),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net["body"](x) * self.net["factor"][0]

    def train_dataloader(self) -> DataLoader[Any]:
        data = blobs(self.batches * self.batch_size, self.shape, seed=self.seed)
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        return DataLoader(Subset(data, range(rank, len(data), ranks)), batch_size=self.batch_size // ranks)


class InPieces(Uneven):
    """FSDP2: the body's layers by themselves, the rest at the root; all gradients are DTensors."""

    def configure_model(self) -> None:
        for layer in self.net["body"]:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        fully_shard(self, mesh=self.device_mesh["data_parallel"])


class CpuFSDP(FSDPStrategy):
    """FSDP1, which Lightning offers on CUDA alone."""

    nested = False

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    def setup_environment(self) -> None:
        self.accelerator.setup_device = lambda device: None  # refuses to be a CPU
        super().setup_environment()

    def _setup_model(self, model: nn.Module) -> nn.Module:
        settings = {
            "device_id": torch.device("cpu"),
            "use_orig_params": True,
            "sharding_strategy": self.sharding_strategy,
            **self.kwargs,
        }
        if self.nested:
            model.net["body"] = FullyShardedDataParallel(model.net["body"], **settings)
        return FullyShardedDataParallel(model, **settings)


class NestedFSDP(CpuFSDP):
    nested = True


class HybridFSDP(CpuFSDP):
    """Over a mesh of one copy in two pieces; several copies need four ranks."""

    def setup_environment(self) -> None:
        sizes = self.kwargs.pop("device_mesh")  # Lightning would make a mesh of CUDA devices of it
        super().setup_environment()
        self.kwargs["device_mesh"] = init_device_mesh("cpu", sizes)


def fsdp1(sharding: Any, kind: type[CpuFSDP] = CpuFSDP, **settings: Any) -> Callable[[], Strategy]:
    return lambda: kind(process_group_backend="gloo", sharding_strategy=sharding, **settings)


RUNS: dict[str, tuple[type[Uneven], Callable[[], Strategy]]] = {
    "ddp": (Uneven, lambda: DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)),
    "fsdp1": (Uneven, fsdp1("FULL_SHARD")),
    "fsdp1 nested": (Uneven, fsdp1("FULL_SHARD", NestedFSDP)),
    "fsdp1 grad op": (Uneven, fsdp1("SHARD_GRAD_OP")),
    "fsdp1 no shard": (Uneven, fsdp1("NO_SHARD")),
    "fsdp1 hybrid": (Uneven, fsdp1("HYBRID_SHARD", HybridFSDP, device_mesh=(1, 2))),
    "fsdp2": (InPieces, lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)),
}


class Look(TuningCallback):
    """Writes down what the meter says, and who lacks a gradient."""

    def __init__(self) -> None:
        self.norms: list[dict[str, float]] = []
        self.totals: list[float] = []
        self.missing: list[int] = []
        self.readings: list[Reading] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).meter.subscribe(self.readings.append)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        norms = Desk.of(trainer).meter.gradient_norms(optimizer, self)
        self.norms.append(dict(zip(norms.names, norms.each.tolist(), strict=True)))
        self.totals.append(float(norms.total))
        self.missing.append(sum(p.grad is None for group in optimizer.param_groups for p in group["params"]))


def fit(kind: type[Uneven], **settings: Any) -> dict[str, Any]:
    look = Look()
    trainer = quiet_trainer(
        callbacks=[GradientExplosionMonitor(), look],
        max_steps=STEPS,
        limit_val_batches=0,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(kind(batches=STEPS))
    return {
        "norms": look.norms,
        "totals": look.totals,
        "missing": look.missing,
        "landed": [dict(zip(reading.names, reading.grad_norms, strict=True)) for reading in look.readings],
        "landed totals": [reading.grad_norm for reading in look.readings],
        "steps": trainer.global_step,
        "findings": [finding.code for finding in Desk.of(trainer).journal.findings],
    }


def everything(rank: int) -> dict[str, dict[str, Any]]:
    return {name: fit(kind, strategy=strategy(), devices=2) for name, (kind, strategy) in RUNS.items()}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(everything)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return fit(Uneven)


def used(norms: dict[str, float]) -> dict[str, float]:
    """Without the weight that no loss reaches: it has no gradient, or one of zeros, as the strategy likes."""
    assert all(norm == 0 for name, norm in norms.items() if "unused" in name)
    return {name: norm for name, norm in norms.items() if "unused" not in name}


@pytest.mark.parametrize("name", RUNS)
def test_both_ranks_know_the_norms_of_the_whole_gradients(
    name: str, ranks: list[dict[str, dict[str, Any]]], alone: dict[str, Any]
) -> None:
    one, other = (rank[name] for rank in ranks)
    assert one["steps"] == other["steps"] == alone["steps"] == STEPS
    assert one["norms"] == other["norms"]
    assert one["totals"] == other["totals"]
    for step in range(STEPS):
        assert used(one["norms"][step]) == pytest.approx(used(alone["norms"][step]), rel=1e-4)
    assert one["totals"] == pytest.approx(alone["totals"], rel=1e-4)
    assert len(used(one["norms"][0])) == 5


@pytest.mark.parametrize("name", RUNS)
def test_what_lands_later_is_what_was_measured(name: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    for rank in ranks:
        assert rank[name]["landed"] == rank[name]["norms"]
        assert rank[name]["landed totals"] == rank[name]["totals"]
        assert rank[name]["findings"] == []


def test_ranks_may_lack_different_gradients(ranks: list[dict[str, dict[str, Any]]]) -> None:
    """What the runs above are for: FSDP1 leaves ``None`` where a rank holds no piece of a parameter."""
    missing = [rank["fsdp1"]["missing"] for rank in ranks]
    assert missing[0] != missing[1]
    assert max(map(max, missing)) > 2


def test_without_other_ranks_nothing_is_sharded() -> None:
    gradients = [torch.tensor([3.0, 4.0]), torch.zeros(0)]
    assert sharded_norms(gradients, flat_copies=None).tolist() == [5.0, 0.0]
    assert sharded_norms(gradients, flat_copies=1).tolist() == [5.0, 0.0]


class Stub:
    """What the meter reads of a trainer in a run on four ranks of one machine."""

    def __init__(self, strategy: Strategy, module: pl.LightningModule) -> None:
        self.strategy, self.lightning_module, self.optimizers = strategy, module, [module.configure_optimizers()]
        self.num_nodes, self.world_size, self.global_step, self.current_epoch = 1, 4, 0, 0
        self.precision_plugin, self.loggers = strategy.precision_plugin, []


@pytest.mark.parametrize(
    ("sharding", "mesh", "copies"),
    [
        ("FULL_SHARD", None, 1),
        ("SHARD_GRAD_OP", None, 1),
        ("NO_SHARD", None, 4),
        ("HYBRID_SHARD", [[0, 1], [2, 3]], 2),
        ("_HYBRID_SHARD_ZERO2", [[0], [1], [2], [3]], 4),
    ],
)
def test_as_many_ranks_hold_a_piece_as_the_strategy_says(
    sharding: str, mesh: list[list[int]] | None, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int | None] = []

    def norms(gradients: list[Tensor], *, flat_copies: int | None = None) -> Tensor:
        told.append(flat_copies)
        return torch.zeros(len(gradients))

    monkeypatch.setattr("lightning_tuning.measure.gradients.sharded_norms", norms)
    devices = None if mesh is None else DeviceMesh("cpu", mesh, _init_backend=False, _rank=0)
    trainer = Stub(CpuFSDP(sharding_strategy=ShardingStrategy[sharding], device_mesh=devices), Uneven())
    Meter(trainer).gradient_norms(trainer.optimizers[0])
    assert told == [copies]
