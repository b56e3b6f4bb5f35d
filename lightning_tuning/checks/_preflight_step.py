"""The training step under examination: run aside as often as the trials of a preflight want it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tuning.findings import Finding, Verdict
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.trace import Graph, Op, Recorder, RngState, batch_tensors, replay
from lightning_tuning.trace.alone import AloneMode

__all__ = ["Clock", "Judgement", "Keeper", "Rehearsal", "Seen", "Take", "evaluate"]


class Judgement(NamedTuple):
    """What a trial came to, and what is to be said of it."""

    verdict: Verdict
    finding: Finding | None = None


class Keeper:
    """Keeps what the operations that it names have read and made, for as long as a step aside is looked at.

    Unlike a probe of the real step it holds on to the tensors themselves, autograd history included.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self.seen: dict[int, tuple[Sequence[Tensor], Sequence[Tensor]]] = {}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Keep one operation's tensors."""
        self.seen[op.index] = tuple(inputs), tuple(outputs)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A term of the loss with the tensors that it compared; a target that another operation read is ``None``."""

    term: LossTerm
    prediction: Tensor
    target: Tensor | None


@dataclasses.dataclass(frozen=True)
class Take:
    """One run of the step, to be looked at before everything is put back."""

    graph: Graph
    losses: list[Tensor]
    kept: dict[int, tuple[Sequence[Tensor], Sequence[Tensor]]]

    @property
    def terms(self) -> list[Seen]:
        """The terms of the loss whose tensors were kept."""
        return list(self._terms())

    def _terms(self) -> Iterator[Seen]:
        for term in self.graph.answer(loss_terms):
            if term.op.index not in self.kept:
                continue
            inputs, _ = self.kept[term.op.index]
            found = dict(zip(term.op.inputs, inputs, strict=False))
            if term.prediction in found:
                yield Seen(term, found[term.prediction], found.get(-1 if term.target is None else term.target))


class Clock:
    """Time that the trials share.

    Args:
        seconds: how much there is of it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """There is none left."""
        return time.monotonic() >= self._end


@dataclasses.dataclass
class Rehearsal:
    """What every trial is given.

    Attributes:
        trainer: of the run.
        pl_module: its LightningModule.
        batch: the first one, as the real step will get it.
        batch_idx: its index.
        rng: every trial starts from these random numbers.
        graph: of the step as it is, up to its loss.
        loss: of that step.
        clock: what time is left.
        tick: moves the progress bar on.
    """

    trainer: Trainer
    pl_module: LightningModule
    batch: Any
    batch_idx: int
    clock: Clock
    tick: Callable[[], None]
    rng: RngState = dataclasses.field(default_factory=RngState.capture)
    graph: Graph = dataclasses.field(default_factory=Graph)
    loss: float | None = None

    def begin(self) -> None:
        """Run the step as it is.

        Raises:
            CannotReplay: if it cannot be run aside.
        """

        def look(take: Take) -> None:
            self.graph = take.graph
            losses = [loss for loss in take.losses if loss.numel() == 1]
            self.loss = float(losses[0].detach()) if losses else None

        self.take(look)

    @property
    def terms(self) -> list[LossTerm]:
        """Of the loss of the step as it is."""
        return self.graph.answer(loss_terms)

    @property
    def term_names(self) -> set[str]:
        """Of the operations to keep for :attr:`Take.terms`."""
        return {term.op.name for term in self.terms}

    def take(
        self,
        look: Callable[[Take], None],
        *,
        batch: Any = None,
        keep: Collection[str] = (),
        evaluation: bool = False,
    ) -> None:
        """Run the step aside and ``look`` at it.

        Args:
            look: is given the take; what it does is undone as well.
            batch: instead of the first one.
            keep: names of the operations whose tensors are kept.
            evaluation: in evaluation mode, with gradients for every parameter that can have one.

        Raises:
            CannotReplay: if the step cannot be run aside.
        """
        batch = self.batch if batch is None else batch
        keeper = Keeper(frozenset(keep))
        recorder = Recorder(self.pl_module, batch, [keeper] if keep else [])

        @contextmanager
        def prepared() -> Iterator[None]:
            with ExitStack() as stack:
                if evaluation:
                    evaluate(self.pl_module)
                stack.enter_context(self.alone())
                stack.enter_context(recorder)
                yield

        def inspect(losses: list[Tensor]) -> None:
            for loss in losses:
                recorder.mark_loss(loss)
            look(Take(recorder.graph, losses, keeper.seen))

        replay(
            self.trainer,
            self.pl_module,
            batch,
            self.batch_idx,
            rng=self.rng,
            context=prepared(),
            inspect=inspect,
        )
        self.tick()

    def alone(self) -> Any:
        """A context in which nothing is sent to other ranks: their trials need not go as ours."""
        return AloneMode() if self.trainer.world_size > 1 else nullcontext()  # type: ignore[no-untyped-call]

    def feeding(self, term: LossTerm) -> dict[str, Tensor]:
        """The tensors of the batch on which the prediction of ``term`` depends, by key path."""
        return self._leading_to(term.prediction)

    def targets(self, term: LossTerm) -> dict[str, Tensor]:
        """The tensors of the batch of which its target is made."""
        return {} if term.target is None else self._leading_to(term.target)

    def _leading_to(self, value: int) -> dict[str, Tensor]:
        graph = self.graph
        read = {value} | {i for op in graph.upstream(graph.values[value]) for i in graph.ops[op].inputs}
        names = {graph.values[i].name for i in read if graph.values[i].kind == "batch"}
        return {name: tensor for name, tensor in batch_tensors(self.batch) if name in names}


def evaluate(module: nn.Module) -> None:
    """Evaluation mode, in which gradients reach the inputs whatever is frozen; to be called aside."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.RNNBase):  # cuDNN has no backward pass in evaluation mode
            part.train()
            part.dropout = 0.0
    for parameter in module.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
