"""Train with a dropout that the net was built without."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.functional.dropout import apply_dropout, check_rate
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.configure_model import after_configure_model

__all__ = ["ApplyDropout"]


class ApplyDropout(TuningCallback):
    """Puts a dropout in front of the last linear layer, or of layers named, before the run.

    Its place in front of the last weight layer, behind all batch norms, is the one that shifts no statistics. Names of
    parameters stay as they are: checkpoints with and without it are the same. It stays in the net after the run, where
    it does nothing in evaluation. See :func:`lightning_tuning.functional.apply_dropout`.

    Args:
        p: share of elements that are dropped, 0 <= p < 1. Default .5, usual for fully connected layers.
        where: ``"before-head"`` (default): the last ``nn.Linear`` in the order of registration; or globs on dotted
            names of layers in the LightningModule.

    Raises:
        ValueError: for a ``p`` outside of that.
        MisconfigurationException: at the start of fit, for a glob that means no layer, or without a linear layer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ApplyDropout(p=0.3)], logger=False, enable_checkpointing=False)

    Source: Srivastava et al. 2014, Dropout; Li et al. 2019, Understanding the Disharmony between Dropout and Batch
        Normalization, section 5 (dropout behind all batch norms).
    """

    def __init__(self, p: float = 0.5, where: str | list[str] = "before-head") -> None:
        super().__init__()
        check_rate("p", p)
        self.p, self.where = p, where
        self._layers: list[str] = []
        self._call_off: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for it as soon as all of the module is there."""
        super().setup(trainer, pl_module, stage)
        self._abandon()
        if stage == "fit":
            self._call_off = after_configure_model(pl_module, lambda: self._apply(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where it is."""
        Desk.of(trainer).journal.note(f"ApplyDropout put p={self.p:g} in front of {', '.join(self._layers)}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no hook of Lightning's replaced."""
        self._abandon()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._abandon()

    def _apply(self, pl_module: LightningModule) -> None:
        try:
            self._layers = apply_dropout(pl_module, self.where, self.p)
        except ValueError as error:
            raise MisconfigurationException(f"ApplyDropout: {error}") from error

    def _abandon(self) -> None:
        if self._call_off is not None:
            self._call_off()
        self._call_off = None
