"""Trials on the first batch, before the run: what a person would try before a long training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lightning_tuning.checks._preflight_data import LEAKAGE, leakage_trial
from lightning_tuning.checks._preflight_future import FUTURE, future_trial
from lightning_tuning.checks._preflight_loss import INITIAL, SCALING, initial_trial, scaling_trial
from lightning_tuning.checks._preflight_mixing import MIXING, mixing_trial
from lightning_tuning.checks._preflight_step import Clock, Judgement, Rehearsal
from lightning_tuning.checks._preflight_trials import FIT, INPUT, fit_trial, input_trial
from lightning_tuning.findings import Finding, TellsVerdicts, TuningError, Verdict
from lightning_tuning.rules._suspects import suspects
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.trace import CannotReplay

__all__ = ["OnFailure", "Preflight"]

OnFailure = Literal["warn", "raise"]

_DATA_SHARE = 0.2  # of the time at most for reading samples


class Preflight(TuningCallback):
    """Tries out model, loss and data on the first batch, before the first step; then the run begins as if nothing was.

    ===================  ======  =====================================================================================
    initial loss         LT206   is it that of a net that knows nothing?
    loss scaling         LT410   with every sample twice a mean stays, a sum doubles
    samples kept apart   LT111   in evaluation mode no output has a gradient with respect to another sample
    no look ahead        LT112   where targets are the next inputs, no output has one with respect to later steps
    no sample in both    LT108   validation samples that are in the training set, by index or content
    overfit one batch            Adam without dropout: the loss falls below a tenth, or all classes are right
    inputs beat zeros    LT110   and with zeros for inputs, trained for as long, it falls less
    ===================  ======  =====================================================================================

    Everything happens aside: parameters, gradients, optimizer, buffers, metrics and random numbers are put back, and
    the run that follows is the same bit for bit. A trial that cannot judge this model says "not applicable" and why,
    one that saw progress but no end of it "undecided"; neither is a failure. On failure the other findings of the first
    batch are named as suspects, the likeliest first.

    It costs up to a few hundred training steps, so :class:`TuningSuite` does not have it. Runs that resume or continue
    have flown already; manual optimization, several optimizers, steps that draw their own batches and sharded models
    are not tried. On several ranks each tries its own batch, and those that communicate in the step are left alone.

    Args:
        iterations: at most so many to overfit one batch, at each of two learning rates. Default 200.
        target: fraction of its first value below which the loss has to fall. Default .1.
        max_seconds: for all trials together; those that are left then are "undecided". Default 120.
        samples: of the training and of each validation set that are compared by content. Default 2,000.
        allow_mixing: samples of a batch may have to do with each other (attention over the batch). Default ``False``.
        on_failure: ``"warn"`` (default) reports; ``"raise"`` ends the run on every rank after the first batch if a
            trial failed.
        then_stop: end the run after so many batches (``True`` is one), for a run that is nothing but the preflight.
            Default ``False``.
        progress_bar: show one, where Lightning's own is shown. Default ``True``.

    Attributes:
        verdicts: what the trials came to, in their order.
        suspects: findings that may explain a failure, the likeliest first.

    Raises:
        ValueError: for an argument that is out of range.
        TuningError: with ``on_failure="raise"``, as said.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> preflight = Preflight(iterations=100)
        >>> trainer = Trainer(callbacks=[preflight], logger=False, accelerator="cpu")
        >>> preflight.verdicts  # after fit
        []

    Source:
        Karpathy 2019, "A Recipe for Training Neural Networks".
    """

    def __init__(
        self,
        iterations: int = 200,
        *,
        target: float = 0.1,
        max_seconds: float = 120.0,
        samples: int = 2_000,
        allow_mixing: bool = False,
        on_failure: OnFailure = "warn",
        then_stop: bool | int = False,
        progress_bar: bool = True,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"`iterations` must be a whole number of at least 1, got {iterations!r}.")
        if not 0 < target < 1:
            raise ValueError(f"`target` must be between 0 and 1, got {target!r}.")
        if not max_seconds > 0:
            raise ValueError(f"`max_seconds` must be positive, got {max_seconds!r}.")
        if samples < 1:
            raise ValueError(f"`samples` must be a whole number of at least 1, got {samples!r}.")
        if on_failure not in get_args(OnFailure):
            raise ValueError(f"`on_failure` must be one of {get_args(OnFailure)}, got {on_failure!r}.")
        if then_stop < 0:
            raise ValueError(f"`then_stop` must be a bool or a number of batches, got {then_stop!r}.")
        self.iterations = iterations
        self.target = target
        self.max_seconds = max_seconds
        self.samples = samples
        self.allow_mixing = allow_mixing
        self.on_failure: OnFailure = on_failure
        self.then_stop = then_stop
        self.progress_bar = progress_bar
        self.verdicts: list[Verdict] = []
        self.suspects: list[Finding] = []
        self._batches, self._is_told = 0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the first batch."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self.verdicts, self.suspects, self._batches, self._is_told = [], [], 0, False
        desk = Desk.of(trainer)
        desk.watch("train_batch_start", self._fly)
        desk.watch("train_batch_end", self._land)
        desk.watch("train_batch_start", self._tell)  # of the second batch, or else at the end of the epoch
        desk.watch("train_epoch_end", self._tell)

    def _fly(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        """The first batch is there: all trials, before its real step."""
        if trainer.global_step == 0 and trainer.current_epoch == 0:
            obstacle = _obstacle(trainer, pl_module, batch)
            if obstacle is None:
                with self._progress(trainer) as tick:
                    self._try(Rehearsal(trainer, pl_module, batch, batch_idx, Clock(self.max_seconds), tick))
            else:
                Desk.of(trainer).journal.note(f"no preflight: {obstacle}")
        return True

    def _try(self, rehearsal: Rehearsal) -> None:
        trainer = rehearsal.trainer
        try:
            rehearsal.begin()
        except CannotReplay as limit:
            Desk.of(trainer).journal.note(f"no preflight: {limit}")
            return
        except Exception as error:  # noqa: BLE001  # the user's own, which the real step raises again
            why = f"the step itself fails ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
            if trainer.world_size > 1 and "communicates with other ranks" in str(error):
                why = f"{error}, and a trial of one rank has nobody to talk to"
            Desk.of(trainer).journal.note(f"no preflight: {why}.")
            return
        if rehearsal.loss is None:
            Desk.of(trainer).journal.note("no preflight: the first step gave no loss.")
            return
        blind = next(iter(rehearsal.graph.blind), "")
        self._run(trainer, INITIAL, "LT206", blind, lambda: initial_trial(rehearsal))
        self._run(trainer, SCALING, "LT410", blind, lambda: scaling_trial(rehearsal))
        self._run(trainer, MIXING, "LT111", blind, lambda: mixing_trial(rehearsal, allow=self.allow_mixing))
        self._run(trainer, FUTURE, "LT112", blind, lambda: future_trial(rehearsal))
        seconds = _DATA_SHARE * self.max_seconds
        more: list[Finding] = []

        def leakage() -> Judgement:
            judgement, others = leakage_trial(trainer, samples=self.samples, seconds=seconds)
            more.extend(others)
            return judgement

        self._run(trainer, LEAKAGE, "LT108", "", leakage)
        for finding in more:
            self.report(trainer, finding, once=True)
        trained = None

        def fit() -> Judgement:
            nonlocal trained
            judgement, trained = fit_trial(rehearsal, iterations=self.iterations, target=self.target)
            return judgement

        self._run(trainer, FIT, "", "", fit)
        self._run(trainer, INPUT, "LT110", blind, lambda: input_trial(rehearsal, trained))

    def _run(self, trainer: Trainer, name: str, code: str, blind: str, trial: Callable[[], Judgement]) -> None:
        """One trial; what it stumbles over is its own trouble, since the step itself has run."""
        if blind:
            self.verdicts.append(Verdict(name, "not applicable", f"blind here: {blind}", code=code))
            return
        try:
            verdict, finding = trial()
        except Exception as error:  # noqa: BLE001  # batches of another size or kind are nothing the user promised
            reason = f"the step cannot be tried so ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
            self.verdicts.append(Verdict(name, "not applicable", reason, code=code))
            return
        self.verdicts.append(verdict)
        if finding is not None:
            self.report(trainer, finding, once=True)

    def _land(self, trainer: Trainer, *_: Any) -> bool:
        """A batch is over; the last one, if the preflight was all that was wanted."""
        self._batches += 1
        if self.then_stop and self._batches >= self.then_stop:
            trainer.should_stop = True
        return not self.then_stop or self._batches >= self.then_stop

    def _tell(self, trainer: Trainer, *_: Any) -> bool:
        """The first batch is over, and all that looked at it have spoken: say what came of the trials."""
        if self._is_told or not self._batches:
            return self._is_told
        self._is_told = True
        failed = [verdict for verdict in self.verdicts if verdict.outcome == "failed"]
        journal = Desk.of(trainer).journal
        own = {verdict.code for verdict in failed}
        others = [finding for finding in journal.findings if failed and finding.code not in own]
        self.suspects = [suspect.finding for suspect in suspects(others)]
        if trainer.is_global_zero and self.verdicts:
            for reporter in journal.reporters:
                if isinstance(reporter, TellsVerdicts):
                    reporter.verdicts(self.verdicts, self.suspects)
        # One small reduction, of a run that wants to be ended: a rank that raised alone would leave the others waiting.
        if self.on_failure == "raise" and trainer.strategy.reduce_boolean_decision(bool(failed), all=False):
            told = "; ".join(f"{v.name}: {v.sentence}" for v in failed) or "on another rank"
            raise TuningError(f"preflight failed: {told}", self.suspects[0] if self.suspects else None)
        return True

    @contextlib.contextmanager
    def _progress(self, trainer: Trainer) -> Iterator[Callable[[], None]]:
        """A bar beneath Lightning's own, if that is tqdm's: two live displays of rich would write over each other."""
        shown = isinstance(trainer.progress_bar_callback, TQDMProgressBar) and trainer.progress_bar_callback.is_enabled
        if not (self.progress_bar and shown and trainer.is_global_zero):
            yield lambda: None
            return
        with Tqdm(desc="Preflight", unit="step", leave=False, dynamic_ncols=True) as bar:

            def tick() -> None:
                bar.update()

            yield tick


def _obstacle(trainer: Trainer, pl_module: LightningModule, batch: Any) -> str | None:
    """Why nothing can be tried here."""
    if not pl_module.automatic_optimization:
        return "manual optimization decides by itself when which part is trained."
    if len(trainer.optimizers) != 1:
        return f"{len(trainer.optimizers)} optimizers share the work."
    if batch is None:
        return "the first batch is empty."
    return None
