from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from lightning_tuning import Finding, Journal, Rule, Severity, TuningError, TuningWarning
from lightning_tuning.runtime import CHECKPOINT_KEY, Desk, TuningCallback
from lightning_tuning.runtime.logger_forms import Page, tell
from lightning_tuning.runtime.resting import IN_EACH_STEP
from lightning_tuning.trace import Graph, replay
from tests.helpers import ManualGAN, Mlp, quiet_trainer
from tests.ranks import gloo, on_two_ranks

RULE = Rule("LT997", "odd", Severity.WARNING, "fact", why="It is.", remedy="None.", source="A test.")


class Memory(TuningCallback):
    """Counts batches, and keeps the count in the checkpoint."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def tuning_state(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


class Traced(TuningCallback):
    def __init__(self) -> None:
        self.graphs: list[Graph] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).request_trace(lambda trainer, module, graph: self.graphs.append(graph))


def test_the_desk_stands_before_the_checkpoints_once() -> None:
    trainer = quiet_trainer(callbacks=[ModelCheckpoint(), Memory(), Memory()], enable_checkpointing=True)
    trainer.fit(Mlp(), train_dataloaders=None)
    kinds = [type(callback).__name__ for callback in trainer.callbacks]
    assert kinds == ["Memory", "Memory", "Desk", "ModelCheckpoint"]


def test_two_instances_keep_their_own_state(tmp_path: Any) -> None:
    first, second = Memory(), Memory()
    trainer = quiet_trainer(callbacks=[first, second])
    trainer.fit(Mlp())
    second.batches = 100
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert saved["callbacks"] == {}
    assert saved[CHECKPOINT_KEY]["Memory"] == {"batches": 8}
    assert saved[CHECKPOINT_KEY]["Memory#1"] == {"batches": 100}
    resumed = [Memory(), Memory()]
    quiet_trainer(callbacks=list(resumed), max_epochs=2).fit(Mlp(), ckpt_path=tmp_path / "end.ckpt")
    assert [memory.batches for memory in resumed] == [16, 108]


def test_the_trace_is_taken_once_and_up_to_the_loss() -> None:
    traced = [Traced(), Traced()]
    quiet_trainer(callbacks=list(traced), max_epochs=2).fit(Mlp())
    assert [len(t.graphs) for t in traced] == [1, 1]
    graph = traced[0].graphs[0]
    assert graph is traced[1].graphs[0]
    assert [op.name for op in graph.ops if graph.reaches_loss(op)] == [
        *("linear", "relu", "linear", "relu", "linear"),
        "cross_entropy",
        "div",
    ]  # fmt: skip  Lightning divides by the number of accumulated batches, also by 1


def test_two_optimizers_by_hand_are_traced_with_both_losses() -> None:
    traced = Traced()
    quiet_trainer(callbacks=[traced]).fit(ManualGAN())
    assert len(traced.graphs[0].losses) == 2


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_step_without_loss_is_tried_again() -> None:
    class SkipsFirst(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx == 0 else super().training_step(batch, batch_idx)

    traced = Traced()
    quiet_trainer(callbacks=[traced]).fit(SkipsFirst())
    assert len(traced.graphs) == 1


def test_a_step_that_fails_leaves_no_mode_behind() -> None:
    class Fails(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        quiet_trainer(callbacks=[Traced()]).fit(Fails())
    assert not torch._C._is_torch_function_mode_enabled()


class Finds(TuningCallback):
    """Reports at the given step."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            self.report(trainer, RULE.finding(f"odd on rank {self.rank}"))


class Raises(TuningCallback):
    """Configures the journal as a suite would."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).journal.configure(on_finding="raise")


class Listens(DummyLogger):
    """Keeps what it is told of findings."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[Page] = []


tell.register(Listens, lambda logger, page: logger.pages.append(page))


def run_pair(rank: int) -> dict[str, Any]:
    """One pair of processes for both stories: starting it takes longer than training."""
    ends: dict[str, Any] = {}
    for name, callbacks in {"warn": [Finds(3, rank=1)], "raise": [Raises(), Finds(3, rank=1)]}.items():
        logger = Listens()
        trainer = quiet_trainer(
            callbacks=callbacks, strategy=gloo(), devices=2, use_distributed_sampler=False, logger=logger
        )
        error = ""
        try:
            trainer.fit(Mlp())
        except TuningError as raised:
            error = str(raised).splitlines()[0]
        found = [(f.message, f.count, f.rank) for f in Journal.of(trainer).findings]
        ends[name] = {"error": error, "step": trainer.global_step, "found": found}
        ends[f"{name}, told"] = [[(f.message, f.rank) for f in page.findings] for page in logger.pages]
    return ends


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Any]]:
    return on_two_ranks(run_pair)


def test_findings_of_all_ranks_are_gathered(pair: list[dict[str, Any]]) -> None:
    assert [end["warn"] for end in pair] == 2 * [{"error": "", "step": 8, "found": [("odd on rank 1", 1, 1)]}]


def test_loggers_are_told_on_rank_zero_of_the_findings_of_all(pair: list[dict[str, Any]]) -> None:
    assert [end["warn, told"] for end in pair] == [[[("odd on rank 1", 1)]], []]
    assert [end["raise, told"] for end in pair] == [[[]], []]


def test_one_ranks_finding_raises_on_all(pair: list[dict[str, Any]]) -> None:
    assert [end["raise"]["error"] for end in pair] == 2 * ["LT997 odd: odd on rank 1 [step 3]"]
    assert [end["raise"]["step"] for end in pair] == [3, 3]


def test_a_new_fit_is_a_new_run_and_evaluation_is_not() -> None:
    trainer = quiet_trainer(callbacks=[Finds(3)])
    with pytest.warns(TuningWarning):
        trainer.fit(Mlp())
    assert [f.count for f in Journal.of(trainer).findings] == [1]
    trainer.validate(Mlp(), verbose=False)
    assert [f.count for f in Journal.of(trainer).findings] == [1]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Mlp())
    assert Journal.of(trainer).findings == []


def test_the_desk_of_a_trainer_without_callbacks_is_an_error() -> None:
    with pytest.raises(KeyError):
        Desk.of(quiet_trainer())


def test_an_error_is_raised_at_once_on_one_process() -> None:
    trainer = quiet_trainer(callbacks=[Raises(), Finds(3)])
    with pytest.raises(TuningError) as error:
        trainer.fit(Mlp())
    assert trainer.global_step == 3
    assert isinstance(error.value.finding, Finding)


def test_a_replay_in_the_middle_of_the_recorded_step_is_not_part_of_it() -> None:
    class Replays(TuningCallback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.batch = batch

        def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
            replay(trainer, pl_module, self.batch, 0)

    graphs = []
    for callbacks in ([], [Replays()]):
        traced = Traced()
        quiet_trainer(callbacks=[*callbacks, traced], max_steps=2).fit(ManualGAN())
        graphs.append(traced.graphs[0])
    assert [op.name for op in graphs[0].ops] == [op.name for op in graphs[1].ops]


class Rested(pl.Callback):
    """Writes down in which hooks of each step the desk was not called."""

    def __init__(self) -> None:
        self.hooks: list[set[str]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        desk = Desk.of(trainer)
        self.hooks.append({hook for hook in IN_EACH_STEP if not callable(getattr(desk, hook))})


def test_a_desk_of_which_nobody_wants_anything_is_not_called() -> None:
    rested = Rested()
    quiet_trainer(callbacks=[rested, Memory()]).fit(Mlp())
    assert rested.hooks == [set(), *7 * [set(IN_EACH_STEP)]]


def test_a_desk_is_called_until_enough_is_seen() -> None:
    class Watches(Memory):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            super().setup(trainer, pl_module, stage)
            self.looks = 0
            Desk.of(trainer).watch("before_optimizer_step", self.look)

        def look(self, trainer: pl.Trainer, *_: Any) -> bool:
            self.looks += 1
            if trainer.global_step == 5:
                Desk.of(trainer).watch_loss()
            return self.looks in (3, 6)

        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 5:
                Desk.of(trainer).watch("before_optimizer_step", self.look)

    rested, watches = Rested(), Watches()
    quiet_trainer(callbacks=[rested, watches]).fit(Mlp())
    assert watches.looks == 6
    everything, looking = set(IN_EACH_STEP), set(IN_EACH_STEP) - {"on_before_optimizer_step"}
    judging = looking - {"on_train_batch_end"}
    assert rested.hooks == [set(), looking, set(), everything, everything, set(), judging, set()]
