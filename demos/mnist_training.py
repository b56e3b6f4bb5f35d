"""The classifier of every run in these demos, and the bench on which it is trained and tested."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from mnist_data import Batches, Digits, Split
from mnist_nets import CLASSES
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from lightning_tuning import Finding, Journal, TerminalReporter, TuningReport

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]
Loss = Callable[[Tensor, Tensor], Tensor]


class Classifier(pl.LightningModule):
    """A net, its loss and its optimizer; logs the mean loss of an epoch, and loss and accuracy of validation and test.

    Args:
        net: images ``[N, 1, 28, 28]`` to logits ``[N, 10]``.
        optimizer: makes the optimizer from the parameters.
        schedule: makes a schedule from the optimizer and the number of steps of the run, stepped with every batch.
        loss: of logits and classes.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule | None = None,
        loss: Loss = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.net, self.loss = net, loss
        self._optimizer, self._schedule = optimizer, schedule
        self.val_acc = MulticlassAccuracy(CLASSES, average="micro")
        self.test_acc = MulticlassAccuracy(CLASSES, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss = self.loss(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``val_loss`` and ``val_acc``."""
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``test_loss`` and ``test_acc``."""
        self._evaluate(batch, "test", self.test_acc)

    def configure_optimizers(self) -> Any:
        """What the run was given."""
        optimizer = self._optimizer(self.parameters())
        if self._schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule(optimizer, steps), "interval": "step"},
        }

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        logits = self(images)
        accuracy(logits, labels)
        self.log(f"{part}_loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log(f"{part}_acc", accuracy, prog_bar=True)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: accuracy on the test images, losses, and what the callbacks found and did."""

    accuracy: float
    train_loss: float
    test_loss: float
    seconds: float
    findings: list[Finding]
    notes: list[str]
    module: Classifier

    @property
    def percent(self) -> str:
        """The accuracy for people, ``"98.76 %"``."""
        return f"{100 * self.accuracy:.2f} %"


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where every run has the same data, seed and trainer, so that two of them differ in what is told apart alone.

    Args:
        digits: the data.
        seed: of initial weights, dropout and the order of the images.
        progress: show Lightning's progress bars.
        fast: train on few images, to see that everything runs; the figures mean nothing then.
        report: folder in which each run is kept, and a page made of it, ``run-01.html`` and so on; a ``fast`` run is
            kept alone.
        console: where everything is printed.
    """

    digits: Digits
    seed: int = 0
    progress: bool = False
    fast: bool = False
    report: Path | None = None
    console: Console = dataclasses.field(default_factory=Console)

    def images(self, count: int | None = None) -> Split:
        """The first ``count`` training images, all by default, fewer if the bench is ``fast``."""
        return self.digits.train.first(min(count or len(self.digits.train), 2048 if self.fast else 60_000))

    def train(
        self,
        build: Callable[[], nn.Module],
        train: Split,
        optimizer: MakeOptimizer,
        *,
        epochs: int = 1,
        batch_size: int = 64,
        schedule: MakeSchedule | None = None,
        loss: Loss = F.cross_entropy,
        callbacks: Sequence[pl.Callback] = (),
        summary: bool = False,
        **trainer_arguments: Any,
    ) -> Outcome:
        """Train the net that ``build`` makes on ``train``, and test it on all test images.

        ``summary`` has the run's findings summed up at its end, as they are by default; a story does that itself.
        """
        pl.seed_everything(self.seed, verbose=False)
        classifier = Classifier(build(), optimizer, schedule, loss)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[*callbacks, *self._reports()],
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_model_summary=False,
            enable_progress_bar=self.progress,
            num_sanity_val_steps=0,
            **trainer_arguments,
        )
        journal = Journal.of(trainer)
        journal.reporters.append(TerminalReporter(self.console, summary=summary))
        start = time.perf_counter()
        trainer.fit(classifier, Batches(train, batch_size, shuffle_seed=self.seed), Batches(self.digits.val, 1000))
        train_loss = float(trainer.callback_metrics["train_loss"])
        findings = journal.findings
        notes = [note for note in journal.notes if " of this run: " not in note]  # that was said at the start
        tested = trainer.test(classifier, Batches(self.digits.test, 1000), verbose=False)[0]
        seconds = time.perf_counter() - start
        return Outcome(tested["test_acc"], train_loss, tested["test_loss"], seconds, findings, notes, classifier)

    def _reports(self) -> list[TuningReport]:
        if self.report is None:
            return []
        name = f"run-{sum(path.is_dir() for path in self.report.glob('run-*')) + 1:02d}"
        return [TuningReport(None if self.fast else self.report / f"{name}.html", run_dir=self.report / name)]

    def say(self, text: str) -> None:
        """Print ``text``, with rich's markup, in lines that fit."""
        self.console.print(text, highlight=False)


def quieten() -> None:
    """Leave the screen to the stories: nothing here is logged or saved, and Lightning need not say so at every run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 asks torch's pytree in the way that torch 2.13 deprecates; raised inside Lightning, at every fit.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
