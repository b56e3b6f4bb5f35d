"""An L1 penalty, or an elastic net, without a change in the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from lightning_tuning.functional.regularization import (
    add_elastic_net_gradients_,
    elastic_net,
    soft_threshold_,
    zero_counts,
)
from lightning_tuning.measure import scale_left_in
from lightning_tuning.runtime import Desk, Sparing
from lightning_tuning.treatments._parameter_treatment import ParameterTreatment, check_rate, local
from lightning_tuning.treatments._penalty_share import PenaltyShare

__all__ = ["L1Penalty"]


class L1Penalty(ParameterTreatment):
    r"""Penalizes :math:`\lambda_1 \sum |w| + \lambda_2 / 2 \sum w^2`, so that weights nobody needs go to zero.

    Why: L1 is the penalty that selects: it pulls on a small weight as hard as on a large one, and what does not pay for
    itself ends at zero. With ``l2`` it is an elastic net, which keeps weights that are needed together together.

    Two ways to get there:

    - The subgradient (``proximal=False``): ``l1 * sign(w) + l2 * w`` is added to each gradient before the step, as if
      the penalty were in the loss, for any optimizer. Weights then tremble around zero, by about ``lr * l1``, and are
      hardly ever zero; Adam and its kin, which divide by the gradients' size, turn a lone L1 gradient into steps of
      ``lr``.
    - The proximal step (``proximal=True``): after each update, ``lr * l1`` is taken off every weight's size, down to
      an exact 0 (ISTA, soft thresholding), and what remains is divided by ``1 + lr * l2``. The weights come out sparse;
      decoupled from the gradients' size, it means the same with every optimizer. Momentum does not amplify it, as it
      does a gradient: for the same pull at a momentum of .9 give ten times the ``l1``.

    Either way the loss that is logged stays the data's own, and batches that are accumulated count the penalty once.
    The subgradient is clipped with the gradient by ``Trainer(gradient_clip_val=...)``, and by ``AdaptiveClipGuard``
    if that stands behind in the list; callbacks behind see gradient norms with it, those before without. An update that
    a guard or a GradScaler leaves out is left without penalty too, and so are parameters that got no gradient. Works in
    automatic and manual optimization, with AMP (fused optimizers as well), DDP and sharded parameters; nothing is read
    back from the device in a step.

    Where the penalty is more than half of the loss for long, and the loss does not fall, that is LT411, as of a penalty
    that the module adds by hand (automatic optimization with one optimizer only). What share of the weights is zero is
    said at the end.

    Logs ``tuning/l1_penalty`` (the penalty's value, in units of the loss, before the update; not with sharded
    parameters) through the trainer's loggers.

    Args:
        l1: default 1e-4; of a net with :math:`10^5` weights of .05 that is half a nat at the start, and gone when most
            of them are. Try powers of ten around it.
        l2: default 0. Its gradient is ``l2 * w``, as that of SGD's ``weight_decay``.
        include: glob(s) on dotted names of parameters or of modules that contain them, or on class names of layers.
            Default ``"*"``: all.
        exclude: likewise, not these. Default ``None``: biases and normalization layers, where a zero saves
            nothing. ``[]`` excludes nothing.
        proximal: see above. Default ``False``: the gradient is what people mean by a penalty.

    Raises:
        ValueError: for an ``l1`` or ``l2`` that is no finite number of at least 0, or both 0.
        MisconfigurationException: at the start of training: for a pattern that matches nothing; with LBFGS, which steps
            along a loss that it has to know; under DeepSpeed. At the first step: for a sparse gradient of a picked
            parameter, unless ``proximal``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[L1Penalty(1e-4, exclude=["head", "*bias"], proximal=True)], logger=False)

    Source: Tibshirani 1996; Zou & Hastie 2005; Beck & Teboulle 2009; Goodfellow et al. 2016, 7.1.2.
    """

    def __init__(
        self,
        l1: float = 1e-4,
        *,
        l2: float = 0.0,
        include: str | Iterable[str] = "*",
        exclude: str | Iterable[str] | None = None,
        proximal: bool = False,
    ) -> None:
        self.l1, self.l2 = check_rate("l1", l1, least=0), check_rate("l2", l2, least=0)
        if not (self.l1 or self.l2):
            raise ValueError(f"`l1` and `l2` must not both be 0, got {l1!r} and {l2!r}.")
        if not isinstance(proximal, bool):
            raise ValueError(f"`proximal` must be True or False, got {proximal!r}.")
        self.proximal = proximal
        self._share: PenaltyShare | None = None
        self._loaded: dict[str, Any] = {}
        self._value: Tensor | None = None
        self._is_whole = True
        super().__init__(include, exclude)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._share, self._loaded, self._value = None, {}, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pick the parameters."""
        super().on_train_start(trainer, pl_module)
        if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            raise MisconfigurationException(
                "L1Penalty: LBFGS steps along a loss that has to have the penalty in it. Add it in `training_step`."
            )
        self._is_whole = not any(hasattr(p, "to_local") for p in self.picked.values()) and bool(trainer.optimizers)
        self._value = None
        if pl_module.automatic_optimization and len(trainer.optimizers) == 1 and self._is_whole:
            self._share = PenaltyShare(trainer)
            if self._loaded:
                self._share.load_state_dict(self._loaded)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the subgradient, if that is the way; measure the penalty where it is to be told."""
        parameters = [p for p, _ in self.updated(optimizer)]
        if not parameters:
            return
        self._measure(trainer)
        if not self.proximal:
            if sparse := [p for p in parameters if p.grad is not None and p.grad.is_sparse]:
                name = next(name for name, p in self.picked.items() if p is sparse[0])
                raise MisconfigurationException(
                    f"L1Penalty: the gradient of {name} is sparse, and the penalty's is not. Exclude it, or use "
                    "proximal=True."
                )
            scale = scale_left_in(getattr(trainer.precision_plugin, "scaler", None), optimizer)
            add_elastic_net_gradients_(parameters, self.l1, self.l2, scale=scale)
            Desk.of(trainer).meter.forget_norms(optimizer)

    def after_update(self, parameter: nn.Parameter, group: dict[str, Any], lr: float | Tensor) -> None:
        """Soft-threshold, if that is the way."""
        if self.proximal:
            soft_threshold_(local(parameter), lr * self.l1, 1 / (1 + lr * self.l2) if self.l2 else 1.0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have the penalty judged beside the loss, now and then."""
        value, self._value = self._value, None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._share is not None and value is not None and isinstance(loss, Tensor) and loss.numel() == 1:
            with Sparing(Desk.of(trainer).journal, self):
                whole = loss.detach().reshape(()) * trainer.accumulate_grad_batches
                self._share.take(trainer, value, whole)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how sparse the weights are. Reads from the device."""
        counts = zero_counts([local(p) for p in self.picked.values()])
        exact, near, elements = (int(number) for number in counts.sum(0))
        if elements and self._is_whole:
            Desk.of(trainer).journal.note(
                f"L1Penalty({self.l1:g}): of {elements} weights {exact / elements:.1%} end at zero, "
                f"{near / elements:.1%} below a thousandth of the largest beside them{self._sparsest(counts)}"
            )

    def tuning_state(self) -> dict[str, Any]:
        """What was read of the penalty's share; the penalty itself has no state."""
        return self._loaded if self._share is None else self._share.state_dict()

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._loaded = dict(state)
        if self._share is not None:
            self._share.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_value": None, "_share": None}  # they are of this process

    def _measure(self, trainer: Trainer) -> None:
        meter = Desk.of(trainer).meter
        log_step = meter.log_step
        is_wanted = log_step is not None or (self._share is not None and self._share.wants(trainer.global_step))
        if not self._is_whole or not is_wanted or self._value is not None:
            return
        self._value = value = elastic_net([p.detach() for p in self.picked.values()], self.l1, self.l2)
        if log_step is not None:
            meter.put([value], lambda numbers: meter.log({"tuning/l1_penalty": numbers[0][0]}, log_step))

    def _sparsest(self, counts: Tensor) -> str:
        if len(counts) < 2 or self.l1 == 0:
            return ""
        shares = counts[:, 1] / counts[:, 2].clamp(min=1)
        most = int(torch.argmax(shares))
        return f" (most in {list(self.picked)[most]}: {float(shares[most]):.0%})" if shares[most] > 0 else ""
