"""A bound on the norm of each unit's incoming weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_tuning.functional.clipping import unit_dims
from lightning_tuning.functional.regularization import renorm_units_
from lightning_tuning.runtime import Desk
from lightning_tuning.treatments._parameter_treatment import ParameterTreatment, check_rate

__all__ = ["MaxNormConstraint"]

_AT_THE_BOUND = 0.999


class MaxNormConstraint(ParameterTreatment):
    """After each update, scales the incoming weights of every unit down to a norm of ``max_norm`` at most.

    Why: it bounds what weights may become without pulling on those that are smaller, so that it goes with learning
    rates that would let them blow up otherwise: with dropout, whose noise asks for a high rate and momentum, it was
    better than weight decay alone (Srivastava et al. 2014).

    The bound is on the L2 norm of a row of a linear weight, of a filter of a convolution, of a row of an embedding.
    Weights of fewer than two dimensions are left alone. An update that a guard or a GradScaler leaves out changes
    nothing. Works in automatic and manual optimization, with accumulation, AMP and DDP; nothing is read back from the
    device. It has no state. How many units are at their bound is said at the end.

    Args:
        max_norm: default 3.0; the paper's are 3 to 4 for fully connected layers.
        include: glob(s) on dotted names of parameters or of modules that contain them, or on class names of layers.
            Default ``"*"``: all.
        exclude: likewise, not these. Default ``None``: biases and normalization layers. ``[]``: nothing.
        dim: dimension of a weight that counts its units. Default ``None``: 0, and 1 for transposed convolutions.

    Raises:
        ValueError: for a ``max_norm`` that is no finite number above 0, or a ``dim`` that is no whole number of at
            least 0.
        MisconfigurationException: at the start of fit, for parameters that are sharded (FSDP, ModelParallel,
            DeepSpeed), whose units no rank has whole; at the start of training, for a pattern that matches nothing, or
            weights that have no dimension ``dim``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MaxNormConstraint(3.0, exclude=["head", "*bias"])], logger=False)

    Source: Hinton et al. 2012, Improving neural networks by preventing co-adaptation of feature detectors; Srivastava
        et al. 2014, Dropout, section 5.1 and appendix A.2.
    """

    def __init__(
        self,
        max_norm: float = 3.0,
        *,
        include: str | Iterable[str] = "*",
        exclude: str | Iterable[str] | None = None,
        dim: int | None = None,
    ) -> None:
        self.max_norm = check_rate("max_norm", max_norm)
        if dim is not None and (type(dim) is not int or dim < 0):
            raise ValueError(f"`dim` must be None or a whole number of at least 0, got {dim!r}.")
        self.dim = dim
        self._unit_of: dict[int, int] = {}
        super().__init__(include, exclude)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse sharded parameters."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise MisconfigurationException(
                f"MaxNormConstraint: under {type(trainer.strategy).__name__} no rank has all incoming weights of a "
                "unit. Use weight decay."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn which dimension counts the units of each weight."""
        super().on_train_start(trainer, pl_module)
        over = unit_dims(pl_module)
        self._unit_of = {}
        for name, p in self.picked.items():
            if p.dim() > 1:
                units = next(d for d in range(p.dim()) if d not in over[id(p)]) if self.dim is None else self.dim
                if units >= p.dim():
                    raise MisconfigurationException(
                        f"MaxNormConstraint(dim={units}): {name} has {p.dim()} dimensions only. Exclude it."
                    )
                self._unit_of[id(p)] = units

    def after_update(self, parameter: nn.Parameter, group: dict[str, Any], lr: float | Tensor) -> None:
        """Scale down what is too large."""
        units = self._unit_of.get(id(parameter))
        if units is not None:
            renorm_units_(parameter.detach(), self.max_norm, units)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many units are at the bound. Reads from the device."""
        at_bound = units = 0
        for p in self.picked.values():
            if (dim := self._unit_of.get(id(p))) is not None and p.numel():
                over = [d for d in range(p.dim()) if d != dim]
                norms = torch.linalg.vector_norm(
                    p.detach(), dim=over, dtype=torch.promote_types(p.dtype, torch.float32)
                )
                at_bound += int((norms >= _AT_THE_BOUND * self.max_norm).sum())
                units += norms.numel()
        if units:
            Desk.of(trainer).journal.note(
                f"MaxNormConstraint: {at_bound} of {units} units end at their bound of {self.max_norm:g}"
            )
