"""Weight decay beside the optimizer: for any of them, and for the parameters that one names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_tuning.functional.regularization import decay_
from lightning_tuning.treatments._parameter_treatment import ParameterTreatment, check_rate, local

__all__ = ["DecoupledWeightDecay"]


class DecoupledWeightDecay(ParameterTreatment):
    """Shrinks the weights by ``lr * weight_decay`` with every update, whatever the optimizer does with gradients.

    Why: the ``weight_decay`` of Adam, RMSprop and their kin is an L2 penalty whose gradient they divide by the size of
    the weight's gradients, so that weights with large gradients hardly decay (LT405). Decoupled, every weight decays at
    the same rate. AdamW does that by itself; this is for every other optimizer, for a decay that leaves out biases and
    norms (LT406) without parameter groups, and for one per pattern: attach one for each.

    ``p *= 1 - lr * weight_decay``, at the learning rate of the parameter's group (schedules are followed), right after
    the update; AdamW decays right before it, a difference of ``lr * weight_decay`` times the update. An update that a
    guard or a GradScaler leaves out decays nothing, nor do parameters without a gradient. Works in automatic and manual
    optimization, with accumulation, AMP, DDP and sharded parameters; nothing is read back from the device. It has no
    state, so a resumed run goes on as an unbroken one.

    Args:
        weight_decay: in units of 1 / (learning rate x steps), as AdamW's; the usual are .01 to .1. Momentum does not
            amplify it: what SGD has as ``weight_decay=1e-3`` at a momentum of .9 is 1e-2 here. No default, as it
            belongs to the learning rate and the length of the run.
        include: glob(s) on dotted names of parameters or of modules that contain them, or on class names of layers.
            Default ``"*"``: all.
        exclude: likewise, not these. Default ``None``: biases, and normalization layers, for which 0 is no
            better value than another. ``[]`` excludes nothing.
        on_top: allow it for parameters that the optimizer decays already (its ``weight_decay`` is above 0). Default
            ``False``: decayed twice is seldom meant, and AdamW has .01 by default.

    Raises:
        ValueError: for a ``weight_decay`` that is no finite number above 0.
        MisconfigurationException: at the start of training: for a pattern that matches nothing; where the optimizer
            decays a picked parameter already (unless ``on_top``); under DeepSpeed.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> decay = DecoupledWeightDecay(0.01, exclude=["*bias", "BatchNorm*", "embedding"])
        >>> trainer = Trainer(callbacks=[decay], logger=False, accelerator="cpu")

    Source: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization.
    """

    def __init__(
        self,
        weight_decay: float,
        *,
        include: str | Iterable[str] = "*",
        exclude: str | Iterable[str] | None = None,
        on_top: bool = False,
    ) -> None:
        self.weight_decay = check_rate("weight_decay", weight_decay)
        if not isinstance(on_top, bool):
            raise ValueError(f"`on_top` must be True or False, got {on_top!r}.")
        self.on_top = on_top
        super().__init__(include, exclude)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pick the parameters; refuse those that decay already."""
        super().on_train_start(trainer, pl_module)
        names = {id(p): name for name, p in self.picked.items()}
        for optimizer in trainer.optimizers if not self.on_top else ():
            for group in optimizer.param_groups:
                twice = [names[id(p)] for p in group["params"] if id(p) in names]
                if twice and isinstance(group.get("weight_decay"), int | float) and group["weight_decay"] > 0:
                    raise MisconfigurationException(
                        f"DecoupledWeightDecay: {type(optimizer).__name__} has weight_decay={group['weight_decay']:g} "
                        f"already for {twice[0]} (and {len(twice) - 1} more). Give it 0, or DecoupledWeightDecay "
                        "on_top=True."
                    )

    def after_update(self, parameter: nn.Parameter, group: dict[str, Any], lr: float | Tensor) -> None:
        """Decay."""
        decay_(local(parameter), lr * self.weight_decay)
