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
from lightning_tuning.functional.module_globs import parse_globs
from lightning_tuning.runtime import CHECKPOINT_KEY, Desk, TuningCallback
from lightning_tuning.runtime.configure_model import after_configure_model
from lightning_tuning.treatments._init_options import HeadBias, InitOptions, Residual
from lightning_tuning.treatments._init_report import InitReport
from lightning_tuning.treatments._init_run import InitRun
from lightning_tuning.treatments._init_scheme import Scheme, parse_scheme
from lightning_tuning.treatments._init_survey import Selection

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

    ``"lsuv"`` asks no activation: orthonormal weights, then, layer by layer in the order of execution, each divided by
    the standard deviation of its output on the first batch, until the variance is within ``lsuv_tol`` of 1 (Mishkin &
    Matas 2016; all layers in one forward pass). Recurrent layers stay orthonormal.

    Normalization, dropout, pooling, reshaping, additions and factors are looked through. Recurrent weights become
    orthogonal under every named scheme, gate by gate; the packed query-key-value weight of attention counts as three.

    Left alone, with the reason in the report: embeddings; normalization; frozen, tied and reparametrized weights;
    all-zero weights (branches that start switched off: LoRA's B, adaLN-zero); weights and biases that were set since
    their layer was built, by hand or by loading a file (unless ``overwrite``), such as a prior of -4.6 on the logits of
    rare classes; everything, if the run resumes from a checkpoint or continues an earlier fit.

    Two more things depend on the place of a layer, and are seen on the graph of the first step. ``residual`` takes care
    of branches whose output is added to their own input, or to a 1x1 convolution or linear layer of it: ``"zero"``
    switches each off (zeros for its last weight, or for the scale of the norm that ends it), so that the net starts
    shallow (Goyal et al. 2017); ``"fixup"``, for nets without normalization, also scales the other weights inside by
    :math:`L^{-1/(2m-2)}` and zeroes the output layer (Zhang et al. 2019; the scalar biases and multipliers of that
    paper would be new parameters and are not added). ``head_bias="prior"`` sets the bias in front of the loss to what
    the best constant answer is: log shares of the classes (cross entropy), log odds (binary), the mean (regression),
    so that rare classes need not be unlearned first (LT207). What is not recognized is left, and the report says why.

    A scheme that needs no batch is applied right after ``configure_model``, before a checkpoint is restored (which
    replaces what was drawn), the optimizers are made and DDP sends rank 0's weights to all. ``"auto"`` and ``"lsuv"``
    (and with ``residual`` and ``head_bias`` all) wait for the first batch (the second or third, if ``training_step``
    returns ``None`` for those before it): its training step runs once aside, with ``"lsuv"`` twice, everything it did
    is undone, the weights are filled in place, and rank 0's go to all ranks. (A learning-rate finder and the sanity
    check, which come before, still see the weights as they were, and so does a frozen copy of the model that was made
    before, a target network for instance.)

    All draws come from generators of their own, made from the seed and the name of the weight: the same run gets the
    same weights, one layer more does not change the others, and dropout and shuffling draw the same numbers as without.

    Args:
        scheme: ``"auto"`` (default), ``"lsuv"``, ``"he"``, ``"xavier"``, ``"lecun"``, ``"orthogonal"``; a function that
            fills a tensor in place (``nn.init.trunc_normal_``) or its import path (``"torch.nn.init.trunc_normal_"``);
            or a dict of those. Its keys are module types, class names, or globs on the dotted names of parameters,
            layers or what contains them; the first that fits decides; ``None`` leaves alone, and so does no entry. A
            function under a key other than ``"*"`` fills embeddings and other parameters too. The formulas:
            :func:`lightning_tuning.functional.initial_std`.
        distribution: ``"normal"`` (default, as in He's paper) or ``"uniform"``, with the same variance.
        bias: fills the biases of the layers whose weights are initialised. Default 0.0, as in the papers whose
            variances are used here; ``None`` leaves them all, and one that was set (see above) stays in any case.
        forget_bias: effective bias of an LSTM's forget gates (the sum of its two). Default 1.0 (Jozefowicz et al.
            2015); ``None`` makes no difference between the gates, and a bias that was set keeps them all.
        residual: ``"keep"`` (default: no branch is changed), ``"zero"`` or ``"fixup"``.
        head_bias: ``"keep"`` (default) or ``"prior"``.
        prior_batches: of samples, drawn evenly from the training data, that ``head_bias`` looks at. Default 20: at 64
            samples each a share of 1 % is known to a quarter of itself. Where samples cannot be had by index (streams,
            samplers that choose) the first batch alone.
        lsuv_tol: how near to 1 the variances have to come. Default .1, as in the paper.
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
            weights, and weights on the meta device or sharded already; where a batch is needed, for strategies that
            shard (FSDP, ModelParallel, DeepSpeed) and steps that cannot be run aside.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from torch import nn
        >>> trainer = Trainer(callbacks=[WeightInitCallback()], logger=False, enable_checkpointing=False)
        >>> by_layer = WeightInitCallback({"head": "xavier", nn.LSTM: "orthogonal", "*": "auto"}, exclude="backbone")

    Source:
        He et al. 2015; Glorot & Bengio 2010; LeCun et al. 1998; Saxe et al. 2014; Klambauer et al. 2017;
        Jozefowicz et al. 2015; Mishkin & Matas 2016; Goyal et al. 2017; Zhang et al. 2019; Lin et al. 2017.
    """

    def __init__(
        self,
        scheme: Scheme = "auto",
        *,
        distribution: Distribution = "normal",
        bias: float | None = 0.0,
        forget_bias: float | None = 1.0,
        residual: Residual = "keep",
        head_bias: HeadBias = "keep",
        prior_batches: int = 20,
        lsuv_tol: float = 0.1,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] = (),
        overwrite: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        globs = parse_globs("include", include), parse_globs("exclude", exclude) or ()
        selection = Selection(parse_scheme(scheme), *globs, overwrite)
        self.options = InitOptions(
            selection, distribution, bias, forget_bias, residual, head_bias, prior_batches, lsuv_tol, seed
        )
        self.report_: InitReport | None = None
        self._fit = ""
        self._resumed = self._continues = False
        self._run: InitRun | None = None
        self._call_off: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for the weights to be initialised as soon as all of them are there."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._abandon()
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy)
        if sharded and self.options.wants_batch:
            raise MisconfigurationException(
                f"WeightInitCallback({self.options.batch_wish()}) has to see the model at work, but"
                f" {type(trainer.strategy).__name__} shards its parameters before that. Name a scheme for each layer"
                " ('he', 'xavier', ...), and keep `residual` and `head_bias`."
            )
        seed = torch.initial_seed() if self.options.seed is None else self.options.seed
        seed, self._fit = trainer.strategy.broadcast((seed, uuid.uuid4().hex))
        self._resumed = self._continues = False
        run = self._run = InitRun(pl_module, self.options, seed)
        self.report_ = run.report
        self._call_off = after_configure_model(pl_module, lambda: run.start(trainer))

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
        if self._run is not None and self._resumed:
            self._run.leave_alone("the run resumes from a checkpoint")
        self._tell_if_done(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the first batch, if a weight waits for that; at the next ones, if its step has no loss."""
        if self._run is not None and self._run.is_waiting:
            self._run.take_batch(trainer, batch, batch_idx)
            self._tell_if_done(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so, if the run was over before a weight's turn came."""
        if self._run is not None and self._run.is_waiting:
            self._run.end("the run ended before a training step had a loss")
            self._tell_if_done(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind on the module."""
        self._abandon()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind on the module."""
        self._abandon()

    def _tell_if_done(self, trainer: Trainer) -> None:
        if self._run is None or self._run.is_waiting:
            return
        self._run.sort()
        if not (self._resumed and self._continues):  # the note of the run that is continued is there
            Desk.of(trainer).journal.note(self._run.report.headline())
            for note in self._run.report.notes:
                Desk.of(trainer).journal.note(note)
        rank_zero_info(str(self._run.report))

    def _abandon(self) -> None:
        if self._call_off is not None:
            self._call_off()
        self._call_off = self._run = None
