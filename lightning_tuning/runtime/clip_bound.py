"""Who clips the gradients of a run, as far as its Trainer and its module say."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

__all__ = ["clip_bound"]


def clip_bound(trainer: Trainer, pl_module: LightningModule) -> tuple[float | None, bool]:
    """The global norm to which Lightning clips, and whether gradients are clipped in a way that this does not tell.

    Returns:
        The bound, ``None`` where Lightning clips to no norm; and whether the module has its own
        ``configure_gradient_clipping``, or values are clipped. Callbacks of ours tell by ``Meter.clip_at``.
    """
    if not pl_module.automatic_optimization:
        return None, False
    value, algorithm = trainer.gradient_clip_val, str(getattr(trainer, "gradient_clip_algorithm", None) or "norm")
    is_own = is_overridden("configure_gradient_clipping", pl_module)
    if not is_own and value and algorithm.rpartition(".")[2].lower() == "norm":
        return float(value), False
    return None, is_own or bool(value)
