"""LT905 on two real processes: what drifts is named, what may differ is not, and no rank waits for the other.

All runs share one pair of processes: starting them takes longer than training.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import post_localSGD_hook as post_local_sgd
from torch.distributed.fsdp import fully_shard

from lightning_tuning import Finding, Journal, NanLossGuard, ReplicaDriftGuard, TuningError, TuningSuite
from lightning_tuning.guards import _replicas
from tests.cases.lt905_replica_drift import CASES, Drifts
from tests.cases.recorded import differences
from tests.contracts.test_no_host_read import Net, NoHostRead, Run, fake_tensors
from tests.guards.faulty import FaultyBN
from tests.helpers import BNConvNet, Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

STEPS = 8
(CASE,) = CASES


class Unfreezes(Mlp):
    """Its first layer is trained from batch 3 on, of which DDP knows nothing."""

    def __init__(self, rank: int) -> None:
        super().__init__(seed=rank)
        self.rank = rank
        self.net[0].requires_grad_(False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.net[0].requires_grad_(self.global_step >= 3)


class LateInit(Mlp):
    """Draws weights after DDP has sent its own to everybody."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def on_fit_start(self) -> None:
        torch.manual_seed(self.rank)
        nn.init.normal_(self.net[2].weight, std=0.1)


class Differs(BNConvNet):
    """Where ranks may differ: buffers, frozen parameters, and what DDP was told to leave alone."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.scale = nn.Parameter(torch.full((3,), float(rank)), requires_grad=False)
        self.table = nn.Parameter(torch.full((4,), float(rank)))
        self._ddp_params_and_buffers_to_ignore = ["table"]

    def on_fit_start(self) -> None:
        self.scale.data.fill_(self.rank)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) + self.table.square().sum()


class Sharded(Mlp):
    """Each rank has half of every weight."""

    def __init__(self, rank: int) -> None:
        super().__init__()

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, torch.distributed.tensor.DTensor):
            for layer in (self.net[0], self.net[2]):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
            fully_shard(self, mesh=self.device_mesh["data_parallel"])


class DriftsAndFails(FaultyBN):
    """Rank 1 has drifted before its loss is NaN."""

    def __init__(self, rank: int) -> None:
        super().__init__({4: "nan"} if rank else {})
        self.rank = rank

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.rank == 1 and batch_idx == 2:
            self.net[0].weight.data.add_(1.0)


def averaging() -> DDPStrategy:
    state = post_local_sgd.PostLocalSGDState(process_group=None, subgroup=None, start_localSGD_iter=1)
    return DDPStrategy(
        process_group_backend="gloo",
        ddp_comm_state=state,
        ddp_comm_hook=post_local_sgd.post_localSGD_hook,
        model_averaging_period=4,
    )


def guard(**arguments: Any) -> Callable[[], list[pl.Callback]]:
    return lambda: [ReplicaDriftGuard(**arguments)]


RUNS: dict[str, tuple[Callable[[int], pl.LightningModule], Callable[[], list[pl.Callback]], dict[str, Any]]] = {
    "healthy": (lambda rank: BNConvNet(seed=rank), guard(every_n_steps=1), {}),
    "accumulation": (lambda rank: FaultyBN(seed=rank), guard(every_n_steps=3), {"accumulate_grad_batches": 2}),
    "may differ": (Differs, guard(every_n_steps=1), {}),
    "every step": (lambda rank: CASE.sick.module(), CASE.sick.callbacks, {}),
    "healthy twin": (lambda rank: CASE.healthy.module(), CASE.healthy.callbacks, {}),
    "every other step": (lambda rank: Drifts(), guard(every_n_steps=2), {}),
    "at the end": (lambda rank: Drifts(), guard(), {}),
    "bias": (lambda rank: Drifts(place=4), guard(every_n_steps=1), {}),
    "raise": (lambda rank: Drifts(), guard(every_n_steps=2, action="raise"), {}),
    "suite raises": (
        lambda rank: Drifts(),
        lambda: [TuningSuite(select=["LT905"], on_finding="raise"), ReplicaDriftGuard(2)], {},
    ),
    "late initialization": (LateInit, guard(), {}),
    "unfrozen": (Unfreezes, guard(every_n_steps=1), {}),
    "after an intervention": (DriftsAndFails, lambda: [NanLossGuard("skip")], {}),
    "sound intervention": (lambda rank: FaultyBN({2: "nan"} if rank else {}), lambda: [NanLossGuard("skip")], {}),
    "averaged": (lambda rank: Mlp(seed=rank), guard(every_n_steps=1), {"strategy": averaging}),
    "sharded": (Sharded, guard(every_n_steps=1), {"strategy": lambda: ModelParallelStrategy(2, 1)}),
}  # fmt: skip


def train(rank: int, name: str) -> dict[str, Any]:
    make, callbacks, settings = RUNS[name]
    settings = {"strategy": gloo, "use_distributed_sampler": False, **settings}
    settings["strategy"] = settings["strategy"]()
    gathered: list[Tensor] = []

    def counting(everybody: list[Tensor], own: Tensor) -> None:
        gathered.append(own)
        dist.all_gather(everybody, own)

    trainer = quiet_trainer(callbacks=callbacks(), devices=2, **settings)
    error = None
    _replicas.dist = SimpleNamespace(all_gather=counting, get_world_size=dist.get_world_size)
    try:
        trainer.fit(make(rank))
    except TuningError as raised:
        error = [raised.finding.message, raised.finding.step]
    finally:
        _replicas.dist = dist
    found = [f.to_dict() for f in Journal.of(trainer).findings]
    return {"findings": found, "error": error, "step": trainer.global_step, "gathered": len(gathered)}


def train_all(rank: int) -> dict[str, dict[str, Any]]:
    return {name: train(rank, name) for name in RUNS}


@pytest.fixture(scope="module")
def ends() -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(train_all)


QUIET = ["healthy", "healthy twin", "accumulation", "may differ", "sound intervention", "averaged", "sharded"]


@pytest.mark.parametrize("name", QUIET)
def test_what_may_differ_is_nothing_to_speak_of(name: str, ends: list[dict[str, dict[str, Any]]]) -> None:
    for end in ends:
        assert [f["code"] for f in end[name]["findings"]] == (["LT701"] if name == "sound intervention" else [])
        assert end[name]["error"] is None


def test_the_case_gives_what_is_recorded_of_it(ends: list[dict[str, dict[str, Any]]]) -> None:
    (finding,) = [Finding.from_dict(found) for found in ends[0]["every step"]["findings"]]
    assert (finding.code, finding.where, str(finding.severity)) == (CASE.code, CASE.where, CASE.severity)
    assert differences(CASE, finding) == []


@pytest.mark.parametrize(
    ("name", "comparisons"),
    [("healthy", 1 + STEPS + 1), ("accumulation", 1 + STEPS // 3 + 1), ("at the end", 2),
     ("sound intervention", 1), ("sharded", 0), ("averaged", 0)],
)  # fmt: skip
def test_one_number_goes_around_per_comparison(
    name: str, comparisons: int, ends: list[dict[str, dict[str, Any]]]
) -> None:
    assert [end[name]["gathered"] for end in ends] == [comparisons, comparisons]


@pytest.mark.parametrize(
    ("name", "where", "first_seen", "when"),
    [
        ("every step", "net.3.weight", 5, "after step 4"),
        ("every other step", "net.3.weight", 6, "after step 4"),
        ("at the end", "net.3.weight", 8, "after step 8, the last"),
        ("bias", "net.4.weight", 5, "after step 4"),
        ("late initialization", "net.2.weight", 0, "before the first batch"),
        ("unfrozen", "net.0.weight", 5, "after step 4"),
        ("after an intervention", "net.0.weight", 5, "after the update dropped at step 5"),
    ],
)
def test_the_first_parameter_is_named_on_both_ranks(
    name: str, where: str, first_seen: int, when: str, ends: list[dict[str, dict[str, Any]]]
) -> None:
    first, second = (end[name] for end in ends)
    assert first["findings"] == second["findings"]
    (finding,) = [f for f in first["findings"] if f["code"] == "LT905"]
    assert (finding["where"], finding["step"], finding["severity"]) == (where, first_seen, "error")
    assert f"differ between ranks {when}" in finding["message"].replace("differs", "differ")
    assert (finding["evidence"]["ranks"], finding["evidence"]["world"]) == ("1", 2)
    assert first["step"] == second["step"] == STEPS


def test_raise_on_both(ends: list[dict[str, dict[str, Any]]]) -> None:
    for name, step in (("raise", 6), ("suite raises", 6)):
        first, second = (end[name] for end in ends)
        assert first["error"] == second["error"]
        assert "net.3.weight first, differ" in first["error"][0]
        assert [end[name]["step"] for end in ends] == [step, step]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "`every_n_steps` must be an integer of at least 1, got 0"),
        ({"every_n_steps": 1.5}, "`every_n_steps`"),
        ({"every_n_steps": True}, "`every_n_steps`"),
        ({"action": "skip"}, "`action` must be one of .'warn', 'raise'., got 'skip'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplicaDriftGuard(**arguments)


@pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")
def test_one_rank_has_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replicas, "fingerprint", None)
    trainer = quiet_trainer(callbacks=[ReplicaDriftGuard(every_n_steps=1), NanLossGuard("skip")])
    trainer.fit(FaultyBN({2: "sample"}))
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT701"]


def test_a_comparison_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gather = SimpleNamespace(all_gather=lambda everybody, own: None, get_world_size=lambda: 2)
    monkeypatch.setattr(_replicas, "dist", gather)
    with fake_tensors() as make:
        module = Net(make)
        trainer: Any = Run(module)
        with NoHostRead():
            flag = _replicas.differ_anywhere(trainer, module)
        assert (flag.device.type, flag.shape, flag.dtype) == ("cuda", (), torch.float32)


def test_it_can_be_sent_to_other_processes() -> None:
    drift = pickle.loads(pickle.dumps(ReplicaDriftGuard(7, "raise")))
    assert (drift.every_n_steps, drift.action) == (7, "raise")


@pytest.mark.parametrize("bunch", [1, 20, 1000])
def test_bunches_hold_every_parameter_once(bunch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replicas, "_BUNCH", bunch)
    model = BNConvNet()
    model.net[3].to(torch.float64)
    model.net[8].bias.requires_grad_(False)
    bunches = list(_replicas._bunches(model))
    trained = [p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]
    assert torch.equal(torch.cat([b.double() for b in bunches]), torch.cat([p.double() for p in trained]))
    assert {b.dtype for b in bunches} == {torch.float32, torch.float64}
