"""Initialise the weights for the activations that follow them, before the first step of a fresh run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.functional.initialization import Distribution
from lightning_tuning.runtime import CHECKPOINT_KEY, Desk, TuningCallback
from lightning_tuning.runtime.patterns import parse_globs
from lightning_tuning.treatments._configure_model import after_configure_model
from lightning_tuning.treatments._init_draw import Painter, layer_recipe, send_to_all
from lightning_tuning.treatments._init_memory import Memory
from lightning_tuning.treatments._init_report import InitReport
from lightning_tuning.treatments._init_scheme import Scheme, check_numbers, parse_scheme
from lightning_tuning.treatments._init_survey import Selection, Target, survey
from lightning_tuning.treatments._init_trace import Use, find_uses

__all__ = ["WeightInitCallback"]


class WeightInitCallback(TuningCallback):
    r"""Initialise weights so that the signal neither dies nor explodes on its way through the layers.

    PyTorch fills linear and convolutional layers with :math:`U(\pm 1/\sqrt{n_{in}})`, a sixth of the variance that ReLU
    needs: what distinguishes one sample from the next shrinks to 1e-2 of the signal after 8 layers, to 3e-4 after 12.
    With ``"auto"`` every weight gets what the activation behind it asks for, as the first training step shows it:

    ==================================== ========================================================
    ReLU, LeakyReLU, PReLU, RReLU        He, with the gain of the slope
    GELU, SiLU, ELU, Mish, Softplus ...  He, with the gain that keeps the second moment at 1
    tanh                                 Xavier, gain 5/3
    sigmoid, gates                       Xavier
    SELU                                 LeCun
    the output                           LeCun
    no activation (attention, residual)  Xavier
    ==================================== ========================================================

    Normalization, dropout, pooling, reshaping, additions and factors are looked through. Recurrent weights become
    orthogonal under every named scheme, gate by gate; the packed query-key-value weight of attention counts as three.

    Left alone, with the reason in the report: embeddings; normalization; frozen, tied and reparametrized weights;
    all-zero weights (branches that start switched off: LoRA's B, adaLN-zero); weights and biases that were set since
    their layer was built, by hand or by loading a file (unless ``overwrite``), such as a prior of -4.6 on the logits of
    rare classes; everything, if the run resumes from a checkpoint or continues an earlier fit.

    A scheme that needs no batch is applied right after ``configure_model``, before a checkpoint is restored (which
    replaces what was drawn), the optimizers are made and DDP sends rank 0's weights to all. ``"auto"`` waits for the
    first batch (the second or third, if ``training_step`` returns ``None`` for those before it): its training step runs
    once aside, everything it did is undone, the weights are filled in place, and rank 0's go to all ranks. (A
    learning-rate finder and the sanity check, which come before, still see the weights as they were, and so does a
    frozen copy of the model that was made before, a target network for instance.)

    All draws come from generators of their own, made from the seed and the name of the weight: the same run gets the
    same weights, one layer more does not change the others, and dropout and shuffling draw the same numbers as without.

    Args:
        scheme: ``"auto"`` (default), ``"he"``, ``"xavier"``, ``"lecun"``, ``"orthogonal"``; a function that fills a
            tensor in place (``nn.init.trunc_normal_``) or its import path (``"torch.nn.init.trunc_normal_"``); or a
            dict of those. Its keys are module types, class names, or globs on the dotted names of parameters, layers or
            what contains them; the first that fits decides; ``None`` leaves alone, and so does no entry. A function
            under a key other than ``"*"`` fills embeddings and other parameters too. The formulas:
            :func:`lightning_tuning.functional.initial_std`.
        distribution: ``"normal"`` (default, as in He's paper) or ``"uniform"``, with the same variance.
        bias: fills the biases of the layers whose weights are initialised. Default 0.0, as in the papers whose
            variances are used here; ``None`` leaves them all, and one that was set (see above) stays in any case.
        forget_bias: effective bias of an LSTM's forget gates (the sum of its two). Default 1.0 (Jozefowicz et al.
            2015); ``None`` makes no difference between the gates, and a bias that was set keeps them all.
        include: glob(s): only these. Default ``None``: all.
        exclude: glob(s): not these, parameters or layers.
        overwrite: whether weights and biases set by hand or loaded before the fit are initialised as well. Default
            ``False``: nobody can tell a badly chosen weight from a trained one.
        seed: of the draws. Default ``None``: ``torch.initial_seed()``, which ``seed_everything`` sets; rank 0's counts.

    Attributes:
        report_: an :class:`InitReport` of the last fit: each weight with its scheme and standard deviation before and
            after, and what was left alone. It is also logged, as a table, at Lightning's INFO level.

    Raises:
        ValueError: for an unknown scheme, distribution or type of argument.
        MisconfigurationException: at the start of fit: for a pattern that matches nothing; for lazy modules without
            weights, and weights on the meta device or sharded already; with ``"auto"``, for strategies that shard
            (FSDP, ModelParallel, DeepSpeed) and steps that cannot be run aside.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from torch import nn
        >>> trainer = Trainer(callbacks=[WeightInitCallback()], logger=False, enable_checkpointing=False)
        >>> by_layer = WeightInitCallback({"head": "xavier", nn.LSTM: "orthogonal", "*": "auto"}, exclude="backbone")

    Source:
        He et al. 2015; Glorot & Bengio 2010; LeCun et al. 1998; Saxe et al. 2014; Klambauer et al. 2017;
        Jozefowicz et al. 2015.
    """

    def __init__(
        self,
        scheme: Scheme = "auto",
        *,
        distribution: Distribution = "normal",
        bias: float | None = 0.0,
        forget_bias: float | None = 1.0,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] = (),
        overwrite: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_numbers(distribution=distribution, bias=bias, forget_bias=forget_bias, seed=seed)
        globs = parse_globs("include", include), parse_globs("exclude", exclude) or ()
        self.selection = Selection(parse_scheme(scheme), *globs, overwrite)
        self.distribution: Distribution = distribution
        self.bias = bias
        self.forget_bias = forget_bias
        self.seed = seed
        self.report_: InitReport | None = None
        self._fit = ""
        self._resumed = self._continues = False
        self._attempts = 0
        self._painter: Painter | None = None
        self._call_off: Callable[[], None] | None = None
        self._waiting: list[Target] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for the weights to be initialised as soon as all of them are there."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._abandon()
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy)
        if sharded and self.selection.wants_batch:
            raise MisconfigurationException(
                f"WeightInitCallback(scheme='auto') has to see the model at work, but {type(trainer.strategy).__name__}"
                " shards its parameters before that. Name a scheme for each layer ('he', 'xavier', ...)."
            )
        seed = torch.initial_seed() if self.seed is None else self.seed
        seed, self._fit = trainer.strategy.broadcast((seed, uuid.uuid4().hex))
        self.report_, self._attempts = InitReport(seed), 0
        self._resumed = self._continues = False
        self._painter = Painter(pl_module, self.report_, self.distribution, self.bias, self.forget_bias)
        self._call_off = after_configure_model(pl_module, lambda: self._start(trainer, pl_module))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn that the run resumes; finders of learning rate and batch size only put back what they saved before."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        state = checkpoint.get(CHECKPOINT_KEY, {}).get(self._checkpoint_name, {})
        self._resumed, self._continues = state.get("fit") != self._fit, bool(state)

    def tuning_state(self) -> dict[str, Any]:
        """Which fit it was."""
        return {"fit": self._fit}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Whatever was to be restored is restored: say what has become of the weights."""
        if self._resumed:
            self._waiting = []
            self._leave_alone(pl_module, "the run resumes from a checkpoint")
        if not self._waiting:
            self._finish(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the first batch, if a weight waits for that; at the next ones, if its step has no loss."""
        if not self._waiting:
            return
        self._attempts += 1
        uses = find_uses(trainer, pl_module, batch, batch_idx, self._waiting, attempt=self._attempts)
        if uses is None:
            return
        targets, self._waiting = self._waiting, []
        for target in targets:
            use = uses[target.name]
            if isinstance(use, str):
                self._report.left_alone[target.name] = use
            else:
                self._fill(pl_module, target, use)
                send_to_all(pl_module, (target.name, *target.biases))
        self._finish(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so, if the run was over before a weight's turn came."""
        if self._waiting:
            reason = "the run ended before a training step had a loss"
            self._report.left_alone.update({target.name: reason for target in self._waiting})
            self._waiting = []
            self._finish(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind on the module."""
        self._abandon()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind on the module."""
        self._abandon()

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill what can be filled without a batch."""
        if trainer.global_step > 0:
            self._leave_alone(pl_module, "the trainer continues an earlier fit")
            return
        targets, self._report.left_alone = survey(pl_module, self.selection, Memory.of(pl_module))
        for target in targets:
            recipe = layer_recipe(target)
            if target.choice == "auto" and recipe is None:
                self._waiting.append(target)
                for name in (target.name, *target.biases):
                    Memory.of(pl_module).remember_fresh(name, pl_module.get_parameter(name))
            else:
                self._fill(pl_module, target, None if recipe is None else Use(recipe))

    def _fill(self, pl_module: LightningModule, target: Target, use: Use | None) -> None:
        if self._painter is not None:
            self._painter.fill(target, use)
            Memory.of(pl_module).handled.add(target.name)

    def _leave_alone(self, pl_module: LightningModule, reason: str) -> None:
        names = [name for name, parameter in pl_module.named_parameters() if parameter.dim() > 1]
        Memory.of(pl_module).handled.update(names)
        self._report.initialized.clear()
        self._report.left_alone = dict.fromkeys(names, reason)

    def _finish(self, trainer: Trainer) -> None:
        order = {name: place for place, (name, _) in enumerate(trainer.lightning_module.named_parameters())}
        self._report.initialized.sort(key=lambda row: order[row.name])
        if not (self._resumed and self._continues):  # the note of the run that is continued is there
            Desk.of(trainer).journal.note(self._report.headline())
        rank_zero_info(str(self._report))

    @property
    def _report(self) -> InitReport:
        if self.report_ is None:
            raise RuntimeError("WeightInitCallback has no report before `setup`.")
        return self.report_

    def _abandon(self) -> None:
        if self._call_off is not None:
            self._call_off()
        self._call_off = self._painter = None
        self._waiting = []
