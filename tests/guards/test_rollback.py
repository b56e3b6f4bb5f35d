"""``Rollback`` and its parts, apart from the guards that use it."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lightning_tuning.guards._rollback import CannotGoBack, Rollback
from lightning_tuning.guards._rollback_copy import freeze, thaw
from lightning_tuning.guards._rollback_record import RollbackRecord
from lightning_tuning.guards._rollback_state import TrainingState

CPU = torch.device("cpu")


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Run:
    """A trainer as far as a rollback looks at it; every step adds 1 to all weights."""

    def __init__(self, **settings: int) -> None:
        self.model = Net()
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1)]
        self.global_step = self.current_epoch = 0
        self.strategy = self.precision_plugin = types.SimpleNamespace()
        self.callbacks: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        arguments = {"every_n_steps": 3, "lr_factor": 0.5, "max_rollbacks": 3, "verify_steps": 4}
        self.rollback = Rollback(**{**arguments, **settings})
        self.rollback.begin(self, self.model)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.zero_()

    def step(self, *losses: float | None) -> None:
        for loss in losses:
            self.rollback.batch_start(self, self.model)
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.add_(1)
            self.global_step += 1
            self.rollback.batch_end(self, self.model, loss)

    def go_back(self, **where: int) -> str:
        return self.rollback.go_back(self, self.model, reason="a test", **where)

    @property
    def weight(self) -> float:
        return float(self.model.layer.weight.detach()[0, 0])


@pytest.fixture
def run() -> Iterator[Run]:
    return Run()


def test_the_newest_sound_state(run: Run) -> None:
    run.step(*[1.0] * 5)
    assert run.go_back() == "went back to the weights of step 3 (2 steps undone), learning rate 0.1 -> 0.05"
    assert run.weight == 3


@pytest.mark.parametrize(("limit", "to_step"), [(8, 6), (6, 6), (5, 3), (3, 3)])
def test_a_state_that_is_not_after_a_step(run: Run, limit: int, to_step: int) -> None:
    run.step(*[1.0] * 8)
    run.go_back(not_after_step=limit)
    assert run.weight == to_step


def test_older_states_are_gone(run: Run) -> None:
    run.step(*[1.0] * 8)
    assert run.rollback.outlook(run, run.model, not_after_step=2) == (
        "there is no sound state of step 2 or before to go back to",
        "",
    )
    with pytest.raises(CannotGoBack, match="no sound state of step 2 or before"):
        run.go_back(not_after_step=2)


def test_what_was_copied_after_the_state_is_gone_too(run: Run) -> None:
    run.step(*[1.0] * 8)
    run.go_back(not_after_step=5)
    run.step(1.0)
    run.go_back()
    assert run.weight == 3


def test_the_state_before_a_bad_batch_does_not_count(run: Run) -> None:
    run.step(1.0, 1.0, 1.0, math.nan, 1.0)
    run.go_back()
    assert run.weight == 0


def test_a_batch_without_a_loss_says_nothing(run: Run) -> None:
    run.step(1.0, 1.0, 1.0, None)
    run.go_back()
    assert run.weight == 0
    run = Run()
    run.step(1.0, 1.0, 1.0, None, 1.0)
    run.go_back()
    assert run.weight == 3


def test_nothing_to_go_back_to_before_the_first_batch(run: Run) -> None:
    with pytest.raises(CannotGoBack, match=r"^there is no sound state to go back to$"):
        run.go_back()


def test_at_most_so_many() -> None:
    run = Run(max_rollbacks=1)
    run.step(1.0, 1.0)
    run.go_back()
    run.step(1.0)
    with pytest.raises(CannotGoBack, match=r"^given up after 1 rollback "):
        run.go_back()
    assert run.weight == 1


def test_replaced_parameters(run: Run) -> None:
    run.step(1.0, 1.0)
    run.model.layer = nn.Linear(2, 2)
    with pytest.raises(CannotGoBack, match="no way back to step 0: parameters or optimizers were replaced since"):
        run.go_back()


def test_several_rollbacks_undo_their_own_steps(run: Run) -> None:
    run.step(*[1.0] * 5)
    run.go_back()
    run.step(1.0, 1.0)
    run.go_back()
    assert [(r.at_step, r.to_step, r.undone) for r in run.rollback.records] == [(5, 3, 2), (7, 3, 2)]
    assert run.weight == 3
    assert run.optimizers[0].param_groups[0]["lr"] == 0.025


def test_notes_and_state(run: Run) -> None:
    run.step(*[1.0] * 5)
    run.go_back()
    run.step(0.9, 0.9, 0.9, 0.9, 0.9)
    (note,) = run.rollback.notes()
    assert note.startswith("rollback 1 of at most 3 at step 5 (a test): went back to the weights of step 3 (2 steps ")
    assert note.endswith("; the next 4 batches were finite, the loss is back at its level (median 0.9, 1 before)")
    other = Run()
    other.rollback.load_state_dict(run.rollback.state_dict())
    assert other.rollback.notes() == [note]


@pytest.mark.parametrize("strategy", [DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy])
def test_sharded_runs_are_refused(run: Run, strategy: type) -> None:
    run.strategy = strategy.__new__(strategy)
    with pytest.raises(MisconfigurationException, match=f"under {strategy.__name__}"):
        run.rollback.begin(run, run.model)


@pytest.mark.parametrize(
    ("before", "after", "is_back", "outcome"),
    [
        ([], [], None, "no batch came after it"),
        ([1.0], [], None, "no batch came after it"),
        ([], [1.0], None, "the next 1 batch was finite (of 3 to watch: the run was over)"),
        (
            [1.0, 2.0],
            [9.0, 2.0, 1.0],
            True,
            "the next 3 batches were finite, the loss is back at its level (median 2",
        ),
        ([1.0, 2.0], [9.0, 2.1, 3.0], False, "the next 3 batches were finite, the loss is not back at its level"),
        ([-2.0, -1.0], [-1.5], True, "the next 1 batch was finite (of 3 to watch: the run was over), the loss is back"),
        ([1.0], [math.nan], None, "the loss was nan again after 0 batches"),
        ([1.0], [1.0, math.inf], True, "the loss was inf again after 1 batch, the loss is back at its level"),
    ],
)
def test_what_came_after(before: list[float], after: list[float], is_back: bool | None, outcome: str) -> None:
    record = RollbackRecord(1, "LT701", 9, 5, 4, 0.1, 0.1, ("0.1", "0.05"), before, 3)
    for loss in after:
        record.see(loss)
    assert record.is_back is is_back
    assert record.outcome().startswith(outcome)


def test_frozen_values_are_copies_and_thaw_in_place() -> None:
    live = {"mean": torch.ones(2), "all": [torch.ones(2), 3], "none": None, "pair": (torch.zeros(1), "x")}
    kept = freeze(live, None, CPU)
    mean, first = live["mean"], live["all"][0]
    mean.fill_(math.nan)
    first.fill_(math.nan)
    back = thaw(kept, live)
    assert back["mean"] is mean
    assert back["all"][0] is not first  # lists shift
    assert torch.equal(back["mean"], torch.ones(2))
    assert torch.equal(back["all"][0], torch.ones(2))
    assert (back["all"][1], back["none"], back["pair"][1]) == (3, None, "x")
    mean.fill_(5)
    assert torch.equal(thaw(kept, None)["mean"], torch.ones(2))


def test_frozen_values_are_written_anew_where_they_fit() -> None:
    first = freeze({"a": torch.ones(2), "b": torch.ones(3)}, None, CPU)
    second = freeze({"a": torch.zeros(2), "b": torch.zeros(4)}, first, CPU)
    assert second["a"].values is first["a"].values
    assert second["b"].values is not first["b"].values
    assert torch.equal(thaw(second, None)["b"], torch.zeros(4))


def test_sparse_and_expanded_tensors() -> None:
    live = {"sparse": torch.eye(3).to_sparse(), "wide": torch.ones(1).expand(4)}
    back = thaw(freeze(live, None, CPU), live)
    assert torch.equal(back["sparse"].to_dense(), torch.eye(3))
    assert torch.equal(back["wide"], torch.ones(4))


def test_a_copy_of_what_is_on_a_device_waits_for_nothing() -> None:
    """Fake tensors refuse to be read: the one read is that of the flag, when the copy is judged."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Net()
        for name, parameter in list(model.layer.named_parameters()):
            setattr(model.layer, name, nn.Parameter(torch.empty(parameter.shape, device="cuda")))
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(parameter)}
        run = types.SimpleNamespace(
            optimizers=[optimizer], global_step=1, callbacks=[], precision_plugin=types.SimpleNamespace()
        )
        state = TrainingState(CPU)
        state.take(run, model)
        state.take(run, model)
        assert [kept.values.device.type for _, kept in state._models[0].parameters] == ["cpu", "cpu"]
        assert [kept.home.type for _, kept in state._models[0].parameters] == ["cuda", "cuda"]
        with pytest.raises(DataDependentOutputException):
            state.is_finite()
