"""Steps in before a loss, gradient or weight that is not finite ruins the run (LT701, LT702, LT703)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.guards._bundle_writer import BundleWriter
from lightning_tuning.guards._checkpoints import CheckpointGate
from lightning_tuning.guards._incident import Response
from lightning_tuning.guards._quarantine import Quarantine, check_quarantine_argument
from lightning_tuning.guards._replicas import find_drift
from lightning_tuning.guards._rollback import Rollback, check_rollback_arguments
from lightning_tuning.guards._rollback_guard import RollbackGuard
from lightning_tuning.guards._scale import ScaleWatch
from lightning_tuning.guards._stable_rate import StableRate
from lightning_tuning.rules.non_finite import broken_weights

__all__ = ["NanLossGuard"]

Action = Literal["raise", "skip", "stop", "rollback"]


class NanLossGuard(RollbackGuard):
    """Steps in before a batch whose loss or gradient is NaN or infinite reaches the weights, and says why it was.

    Why: one such update makes every weight NaN, and a run of days is lost. The finding (LT701 loss, LT702 gradient,
    LT703 weight) names the first bad sample of the batch, or the operation, module and source line that made the first
    non-finite number, with the offending value: the step is replayed with the same batch, weights and random numbers,
    and everything is put back after it (the first three times only).

    What it does then is ``action``:

    - ``"raise"`` (default: whoever asked for nothing else should know at once) ends the run with :class:`TuningError`,
      weights, optimizer state and buffers (BN statistics) as before the batch.
    - ``"skip"`` drops the batch: parameters, optimizer state, buffers, torchmetrics states and Lightning's epoch means
      end bit-identical to before it; under gradient accumulation the gradients of its whole window are dropped.
      Schedulers and ``global_step`` go on, random numbers stay drawn, what was logged for the step itself stays NaN.
    - ``"stop"`` drops the batch likewise and ends the run in good order (validation, checkpoints), whatever
      ``min_epochs`` and ``min_steps`` ask.
    - ``"rollback"`` drops the batch likewise, puts the run back to a sound state of some steps before, and cuts the
      learning rate; broken weights are mended too. Put back, bit for bit: parameters, buffers, optimizer states, the
      GradScaler's scale, averages of the weights (``WeightAveraging``, ``StochasticWeightAveraging``). What counts goes
      on: ``global_step``, epochs, the data (the bad window is not seen again), random numbers, logged means, and the
      schedules, whose every coming rate is multiplied by ``lr_factor`` (a ``OneCycleLR`` keeps its length and its
      momentum; the ``min_lr`` of a plateau scheduler stays). What was undone, what it cost and whether the loss was
      finite and back at its level over the next 50 batches is told at the end of the run.

    Weights that are broken themselves, found before the first step, at every epoch's end or in an incident, cannot be
    mended by skipping: ``"skip"`` raises then. A GradScaler's own skips (16-mixed) are counted in ``amp_skips`` and are
    no findings, unless its scale falls below 1 or it leaves out more than one update in twenty (LT704). With several
    ranks all do the same in the same batch, the finding names whose batch it was, and after each dropped update the
    replicas are compared (LT905). Under manual optimization the rest of a bad batch is dropped from its first bad loss
    on; optimizers that stepped before stay stepped. Attributes that a module updates itself (a hidden state carried
    along) are not put back.

    Checkpoints stay good: whoever saves one of broken weights, buffers or optimizer moments through the trainer, during
    the run or after it, gets :class:`TuningError` (LT903) whatever ``action`` is, before anything is written or an
    older file is removed; with ``"rollback"`` the run goes back first and what is sound then is saved. Where the run
    ends already, by an exception or by ``"stop"``, ModelCheckpoint is passed over instead.

    Price: the host waits for the device once per batch, to read a gradient norm (shared with the other callbacks) and
    the loss; a copy of all buffers; some 15 us for the random number generators while replays are left; but for
    ``"raise"`` a copy of the metric states; with several ranks one all-reduce of one number; for a checkpoint half to
    three quarters of the time that it takes to write it; for ``"rollback"`` memory on the CPU for two copies of
    parameters, buffers and optimizer states (24 bytes a parameter with Adam in float32), written as
    ``snapshot_every_n_steps`` says.

    Args:
        action: see above.
        max_skips: batches in a row that ``"skip"`` may drop; the next raises. Default 10: eleven bad ones are no run.
        replay: whether to look for the operation by replaying the step. Not done with sharded parameters (FSDP,
            DeepSpeed), nor beyond the first collective of a step with several ranks.
        bundle_dir: write each bad step into a folder of its own in here, with all that is needed to repeat it anywhere:
            weights, buffers, optimizer state, batch, random numbers, precision, the finding, ``report.txt``; then
            ``lightning-tuning replay FOLDER module:Class``. Written by the rank whose batch was bad, in safetensors and
            plain files that hold no code; whole or not at all, and a full disk ends in a note. Price: nothing until
            then, but for the random number generators at every batch; in an incident the time to write weights and
            optimizer state, while the other ranks wait. Mind that it holds the batch's data. Default: none are written.
        max_bundles: of one run at most; folders of earlier runs are never removed. Default 3: more tell the same.
        quarantine: write the dataset indices of samples that were not finite themselves (cause ``bad-sample``, no
            other) into a file, and leave them out of the next epochs, when resumed, and in every later run with that
            file. A path, or ``True`` for ``quarantine.json`` in the logger's folder or ``default_root_dir``. Batches
            stay as many and every other sample at its place; one that would be empty, lose its ``drop_last`` size or
            fall below two samples is filled from others of the epoch. At most half of a dataset. Where an own
            ``collate_fn`` or batch transfer hook stands between, the bad batch's items are read again, each alone. The
            index of a sample must mean the same all along. Default: nothing is left out.
        measure_stable_lr: where the learning rate is the cause or may be (growing gradients, broken weights), measure
            the largest stable one on the bad batch and name it (``stable_lr``, ``sharpness`` in the evidence): at the
            weights before the update or, where the loss is not finite there, at those of the start of the run or of its
            last epoch, whichever is later; of adaptive optimizers with the moments of now, after their first 100 steps.
            Price: a copy of the parameters on the CPU at each epoch's end; in an incident, three times in a fit at
            most, up to twice a training step with 20 double backward passes and six copies of the parameters, as
            :class:`StabilityProbe`. Default ``False``.
        snapshot_every_n_steps: for ``"rollback"``: steps between two copies of the state; at most twice as many are
            undone. Default 100: a copy takes a tenth to a half of a step on a CPU, so that is below half a percent.
        lr_factor: for ``"rollback"``: every learning rate is multiplied by it. Default .5.
        max_rollbacks: for ``"rollback"``: of one run; the next incident raises. Default 3: the rate is an eighth then.

    Raises:
        ValueError: for an unknown ``action``, a ``max_skips``, ``max_bundles``, ``max_rollbacks`` or
            ``snapshot_every_n_steps`` below 1, an ``lr_factor`` that is not in (0, 1], a ``replay`` or
            ``measure_stable_lr`` that is no bool, or a ``bundle_dir`` or ``quarantine`` that is no path.
        MisconfigurationException: for ``"skip"`` and ``"stop"`` in a fit with LBFGS or DeepSpeed; for ``"rollback"`` in
            one with DeepSpeed, FSDP or ``ModelParallelStrategy``; for two of these guards with different actions; for
            ``quarantine`` where no training loader draws by index, or the file is damaged or of other data; see the
            message.
        TuningError: see ``action``, ``max_skips`` and ``max_rollbacks``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> guard = NanLossGuard(action="skip")
        >>> trainer = Trainer(callbacks=[guard], logger=False, accelerator="cpu")
        >>> guard.skipped
        0

    Source: Google tuning playbook, on instability; Lightning issues 4956, 5152, 5243 (skipping without hanging DDP).
    """

    def __init__(
        self,
        action: Action = "raise",
        *,
        max_skips: int = 10,
        replay: bool = True,
        bundle_dir: str | os.PathLike[str] | None = None,
        max_bundles: int = 3,
        quarantine: bool | str | Path = False,
        measure_stable_lr: bool = False,
        snapshot_every_n_steps: int = 100,
        lr_factor: float = 0.5,
        max_rollbacks: int = 3,
    ) -> None:
        if action not in get_args(Action):
            raise ValueError(f"`action` must be one of {get_args(Action)}, got {action!r}.")
        if type(max_skips) is not int or max_skips < 1:
            raise ValueError(f"`max_skips` must be an integer of at least 1, got {max_skips!r}.")
        if type(replay) is not bool:
            raise ValueError(f"`replay` must be True or False, got {replay!r}.")
        if type(max_bundles) is not int or max_bundles < 1:
            raise ValueError(f"`max_bundles` must be an integer of at least 1, got {max_bundles!r}.")
        if type(measure_stable_lr) is not bool:
            raise ValueError(f"`measure_stable_lr` must be True or False, got {measure_stable_lr!r}.")
        check_quarantine_argument(quarantine)
        check_rollback_arguments(snapshot_every_n_steps, lr_factor, max_rollbacks)
        self.snapshot_every_n_steps = snapshot_every_n_steps
        self.lr_factor = lr_factor
        self.max_rollbacks = max_rollbacks
        self.quarantine = quarantine
        self.measure_stable_lr = measure_stable_lr
        self.bundle_dir = bundle_dir
        self.max_bundles = max_bundles
        super().__init__(action, max_skips=max_skips, replay=replay)

    def _make_rollback(self) -> Rollback | None:
        if self.action != "rollback":
            return None
        return Rollback(
            every_n_steps=self.snapshot_every_n_steps, lr_factor=self.lr_factor, max_rollbacks=self.max_rollbacks
        )

    def _make_responses(self) -> list[Response]:
        self._gate, self._scale = CheckpointGate(self._mend), ScaleWatch()
        responses = [*super()._make_responses(), self._gate, self._scale]
        if self.measure_stable_lr:
            responses.append(StableRate())
        if self.bundle_dir is not None:
            responses.append(BundleWriter(self.bundle_dir, self.max_bundles))
        if self.quarantine is not False:
            responses.append(Quarantine(None if self.quarantine is True else self.quarantine, self._samples))
        return responses

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide on a batch that only accumulated; undo a bad one, see that replicas stayed equal; count."""
        before = self._memory.skipped
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._scale.follow(trainer, updates=self._memory.updates, skipped=self._memory.amp_skips)
        if self._memory.skipped > before:
            drift = find_drift(trainer, pl_module, f"after the update dropped at step {trainer.global_step}")
            if drift is not None and trainer.is_global_zero:
                self.report(trainer, drift)

    def _mend(self, trainer: Trainer, pl_module: LightningModule, names: tuple[str, ...]) -> bool:
        """Broken weights were found by a save that is under way: go back before it, if that is the way."""
        if self._rollback is None:
            return False
        self._snapshot = None  # the batch is over, with nothing to undo
        norms = tuple(self._memory.norms)
        finding = broken_weights(names, when="when saved", norms=norms, step=trainer.global_step)
        self._act(trainer, finding, mendable=False)
        self._go_back(trainer, pl_module)
        return True

    def _act(self, trainer: Trainer, finding: Finding, *, mendable: bool) -> None:
        if self.action == "stop" and not mendable:
            self._gate.close(trainer)
        super()._act(trainer, finding, mendable=mendable)

    @property
    def skipped(self) -> int:
        """Updates dropped by this guard in the run; an accumulation window counts once."""
        return self._memory.skipped

    @property
    def amp_skips(self) -> int:
        """Updates dropped by the GradScaler."""
        return self._memory.amp_skips
