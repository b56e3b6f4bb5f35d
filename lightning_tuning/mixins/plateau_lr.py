"""A plateau schedule for those who like their learning rate in the module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from lightning_tuning.functional.plateau_lr import plateau_lr_config
from lightning_tuning.rules._plateau import judge_plateau
from lightning_tuning.runtime.plateau import PlateauKeeper

__all__ = ["PlateauLRMixin"]


class PlateauLRMixin(LightningModule):
    """Gives a module :meth:`with_plateau_lr`, and resumes that are exact.

    The same as the callback :class:`~lightning_tuning.PlateauLR`, for those who write ``configure_optimizers`` anyway;
    one of the two is enough. Lightning loses the plateau step of an epoch when it resumes from a checkpoint of that
    epoch; a callback that the mixin brings along (through ``configure_callbacks``: a module that overrides it calls
    ``super()``) puts it back, and checks LT505, LT506 and LT507.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule
        >>> class Net(PlateauLRMixin, LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 2)
        ...
        ...     def configure_optimizers(self):
        ...         return self.with_plateau_lr(
        ...             torch.optim.SGD(self.parameters(), lr=0.1), monitor="val_loss", patience=3
        ...         )
        >>> configured = Net().configure_optimizers()
        >>> configured["lr_scheduler"]["scheduler"].patience
        3
    """

    def with_plateau_lr(self, optimizer: Optimizer, monitor: str, **arguments: Any) -> dict[str, Any]:
        """``optimizer`` with a plateau schedule, to be returned from ``configure_optimizers``.

        Args:
            optimizer: whose rates are lowered.
            monitor: name of the logged metric to watch.
            **arguments: as in :func:`~lightning_tuning.functional.plateau_lr.plateau_lr_config`. ``frequency`` is,
                unless given, the trainer's ``check_val_every_n_epoch``.

        Raises:
            ValueError: for arguments outside of what is said there.
            MisconfigurationException: with manual optimization, where Lightning steps no scheduler; the callback does.
        """
        if not self.automatic_optimization:
            raise MisconfigurationException(
                "PlateauLRMixin: with manual optimization Lightning steps no scheduler. "
                f"Use `Trainer(callbacks=[PlateauLR(monitor={monitor!r})])`."
            )
        trainer = self._trainer
        if trainer is not None and trainer.enable_validation:
            arguments.setdefault("frequency", trainer.check_val_every_n_epoch or 1)
        return {"optimizer": optimizer, "lr_scheduler": plateau_lr_config(optimizer, monitor, **arguments)}

    def configure_callbacks(self) -> Sequence[Callback]:
        """Bring the callback along that keeps the schedule exact."""
        inherited = super().configure_callbacks()
        return [
            *(inherited if isinstance(inherited, Sequence) else [inherited]),
            PlateauKeeper("PlateauLRMixin", judge_plateau),
        ]
