"""Parameter groups for those who write ``configure_optimizers``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from lightning_tuning.functional import param_groups

__all__ = ["ParamGroupsMixin"]


class ParamGroupsMixin(LightningModule):
    """Gives a module :meth:`param_groups`.

    Example:
        >>> import torch
        >>> class Net(ParamGroupsMixin):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = torch.nn.Linear(4, 4)
        ...         self.head = torch.nn.Linear(4, 2)
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.AdamW(self.param_groups(lr=1e-3, backbone="encoder", weight_decay=0.05))
        >>> for group in Net().configure_optimizers().param_groups:
        ...     print(f"{group['name']}: lr {group['lr']:g}, decay {group['weight_decay']}")
        backbone: lr 0.0001, decay 0.05
        backbone, no decay: lr 0.0001, decay 0.0
        head: lr 0.001, decay 0.05
        head, no decay: lr 0.001, decay 0.0
    """

    def param_groups(self, lr: float, **arguments: Any) -> list[dict[str, Any]]:
        """The module's trainable parameters in groups, for the first argument of an optimizer.

        Args:
            lr: rate of the head, or of everything.
            **arguments: as in :func:`~lightning_tuning.functional.param_groups`: ``backbone``, ``backbone_lr_ratio``,
                ``layer_decay``, ``weight_decay``, ``no_decay``.

        Raises:
            ValueError: as there.
        """
        return param_groups(self, lr, **arguments)
