"""Train with another normalization than batch norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_tuning.functional.batch_norm_conversion import (
    NormTarget,
    check_conversion_arguments,
    convert_batch_norm,
    is_convertible,
)
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.configure_model import after_configure_model

__all__ = ["ConvertBatchNorm"]


class ConvertBatchNorm(TuningCallback):
    """Puts another normalization in the place of batch norms, before there is an optimizer.

    ``"group"`` (GroupNorm) where a device sees fewer than some 16 samples; ``"renorm"`` (batch renormalization) where
    it sees few and the net has to stay compatible with batch norm; ``"frozen"`` where the statistics of a pretrained
    net are better than the run's; ``"sync"`` for statistics over all ranks of a part of the net (for all of it
    ``Trainer(sync_batchnorm=True)`` does).

    Converted when the module is configured: before a checkpoint is restored, the strategy wraps the module and
    optimizers are made. So a run resumes with the checkpoints that it wrote, and so do ``validate`` and ``test`` with
    the callback attached. What a checkpoint of the net with batch norms has to do with the new net says
    :func:`lightning_tuning.functional.convert_batch_norm`. The module stays converted after the run.

    Args:
        to: ``"group"``, ``"sync"``, ``"frozen"`` or ``"renorm"``.
        include: glob(s) on dotted names in the LightningModule (``"net.backbone"`` means what is inside of it): only
            these. Default ``None``: all.
        exclude: glob(s): not these. Default: none.
        groups: of ``"group"``, at most. Default 32, as in the paper; fewer where channels are few.
        freeze_affine: of ``"frozen"``: whether scale and shift are fixed too. Default true.
        r_max: of ``"renorm"``: bound of the correction of the scale. Default 3, as in the paper.
        d_max: of ``"renorm"``: bound of the correction of the mean. Default 5, as in the paper.
        r_steps: of ``"renorm"``: batches after which ``r_max`` begins to open, and after which it is open. Default
            (5000, 40000), as in the paper: give a short run its own.
        d_steps: the same for ``d_max``. Default (5000, 25000), as in the paper.

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: at the start of the run, for a glob that means no batch norm, and batch norms that
            keep no statistics to freeze or renormalize by.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ConvertBatchNorm("group")], logger=False, enable_checkpointing=False)

    Source: Wu and He 2018, Group Normalization; Ioffe 2017, Batch Renormalization.
    """

    def __init__(
        self,
        to: NormTarget,
        *,
        include: str | list[str] | None = None,
        exclude: str | list[str] = (),  # type: ignore[assignment]  # an empty default that nobody can append to
        groups: int = 32,
        freeze_affine: bool = True,
        r_max: float = 3.0,
        d_max: float = 5.0,
        r_steps: tuple[int, int] = (5000, 40000),
        d_steps: tuple[int, int] = (5000, 25000),
    ) -> None:
        super().__init__()
        self.to = to
        self.arguments: dict[str, Any] = {
            "include": include,
            "exclude": exclude,
            "groups": groups,
            "r_max": r_max,
            "d_max": d_max,
            "r_steps": r_steps,
            "d_steps": d_steps,
        }
        check_conversion_arguments(to, **self.arguments)
        self.arguments["freeze_affine"] = freeze_affine
        self._call_off: Callable[[], None] | None = None
        self._converted = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for the conversion as soon as all of the module is there."""
        super().setup(trainer, pl_module, stage)
        self._abandon()
        self._call_off = after_configure_model(pl_module, lambda: self._convert(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was done."""
        norms = f"{self._converted} batch norm{'' if self._converted == 1 else 's'}"
        told = (
            f"converted {norms} to {self.to!r}" if self._converted else "found no batch norm that was to be converted"
        )
        Desk.of(trainer).journal.note(f"ConvertBatchNorm {told}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind on the module but what it was converted to."""
        self._abandon()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._abandon()

    def _convert(self, pl_module: LightningModule) -> None:
        before = {id(part) for part in pl_module.modules() if isinstance(part, _BatchNorm)}
        try:
            convert_batch_norm(pl_module, self.to, **self.arguments)
        except ValueError as error:
            raise MisconfigurationException(f"ConvertBatchNorm({self.to!r}): {error}") from error
        now = {id(part) for part in pl_module.modules() if is_convertible(part, self.to)}
        self._converted = len(before - now)

    def _abandon(self) -> None:
        if self._call_off is not None:
            self._call_off()
        self._call_off = None
