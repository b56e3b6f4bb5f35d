"""The base of the checks: shown the first step once, its values by probes, and blind where there is nothing to see."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tuning import Finding, Journal, Rule, Severity
from lightning_tuning.runtime import Check, FirstStep
from lightning_tuning.trace import Op
from tests.helpers import MODEL_KINDS, ManualGAN, Mlp, TinyModule, quiet_trainer

RULE = Rule("LT996", "seen", Severity.INFO, "fact", why="It is.", remedy="None.", source="A test.")


class Maxima:
    """The greatest value that each linear layer gave."""

    names = ("linear",)

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}
        self.modes: set[tuple[bool, bool]] = set()

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        assert [tuple(tensor.shape) for tensor in outputs] == [(16, 16 if op.module != "net.4" else 3)]
        assert len(inputs) == len(op.inputs) == 3
        self.found[op.index] = outputs[0].max()
        self.modes.add((torch.is_grad_enabled(), self.found[op.index].requires_grad))


class Looker(Check):
    def __init__(self) -> None:
        self.steps: list[tuple[list[str], list[str], int]] = []
        self.maxima = Maxima()

    def probes(self) -> Sequence[Any]:
        self.maxima = Maxima()
        return [self.maxima]

    def look(self, step: FirstStep) -> Iterable[Finding]:
        self.steps.append(([op.name for op in step.graph.ops], list(step.batch), step.trainer.global_step))
        yield RULE.finding("a step was seen", evidence={"ops": len(step.graph)})
        yield RULE.finding("a step was seen", evidence={"ops": len(step.graph)})


def test_one_step_is_seen_before_its_update_with_its_batch_and_values() -> None:
    looker, model = Looker(), Mlp()
    reference = Mlp()
    trainer = quiet_trainer(callbacks=[looker], max_epochs=2)
    trainer.fit(model)
    (ops, batch, step), *more = looker.steps
    assert more == []
    assert ops[:5] == ["linear", "relu", "linear", "relu", "linear"]
    assert (batch, step) == (["batch[0]", "batch[1]"], 0)
    x, _ = next(iter(reference.train_dataloader()))
    hidden = F.relu(reference.net[0](x))
    assert looker.maxima.found[0].item() == reference.net[0](x).max().item()
    assert looker.maxima.found[2].item() == reference.net[2](hidden).max().item()
    assert looker.maxima.modes == {(False, False)}
    (finding,) = Journal.of(trainer).findings
    assert (finding.code, finding.count) == ("LT996", 1)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_every_kind_of_model_is_seen(kind: type[TinyModule]) -> None:
    looker = Looker()
    looker.probes = lambda: ()  # type: ignore[method-assign]
    quiet_trainer(callbacks=[looker]).fit(kind())
    assert [step for _, _, step in looker.steps] == [2 if kind is ManualGAN else 0]


class Failing(Looker):
    def probes(self) -> Sequence[Any]:
        class Broken:
            names = ("relu",)

            def look(self, *_: Any) -> None:
                raise ZeroDivisionError("the probe's own")

        return [Broken()]


def test_a_probe_that_fails_is_the_recorders_trouble() -> None:
    failing, model = Failing(), Mlp()
    trainer = quiet_trainer(callbacks=[failing])
    trainer.fit(model)
    assert trainer.global_step == 8
    (note,) = Journal.of(trainer).notes
    assert "the probe's own" in note
    assert "May have missed something: Failing." in note


class Compiled(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")
        self.stream = iter(range(10**6))  # a repetition aside would use it up


def test_blind_is_said_once_and_nothing_else() -> None:
    torch._dynamo.reset()
    checks = [Looker(), Failing()]
    trainer = quiet_trainer(callbacks=checks)
    trainer.fit(Compiled())
    (note,) = Journal.of(trainer).notes
    assert note.startswith("blind here: ")
    assert note.endswith("May have missed something: Looker, Failing.")
    assert [step[0] for check in checks for step in check.steps] == [[], []]


def test_a_module_that_never_gives_a_loss_is_said_to_be_unseen() -> None:
    class Lossless(Mlp):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    looker = Looker()
    trainer = quiet_trainer(callbacks=[looker])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning tells of it, but once in a process
        trainer.fit(Lossless())
    assert looker.steps == []
    assert ["no training step could be traced" in note for note in Journal.of(trainer).notes] == [True]


def test_the_batch_is_let_go_after_the_look() -> None:
    from lightning_tuning.runtime import Desk

    trainer = quiet_trainer(callbacks=[Looker()], limit_train_batches=1)
    trainer.fit(Mlp())
    assert Desk.of(trainer).tracer.batch is None
