"""Keep frozen what was declared frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.functional.batch_norm import tracking_batch_norms
from lightning_tuning.functional.freezing import Frozen, frozen
from lightning_tuning.functional.module_globs import parse_globs
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.configure_model import after_configure_model
from lightning_tuning.runtime.declared import declare_frozen

__all__ = ["FreezeGuard"]


class FreezeGuard(TuningCallback):
    """Holds modules in evaluation mode, running statistics fixed and dropout off, while the rest trains.

    A frozen backbone in training mode forgets the statistics that its weights were trained with (LT322), and one
    ``self.train()`` anywhere puts all of a net there. The mode is set at the start of each epoch, and looked at before
    each batch: whoever has changed it is undone, and the summary says so. A ``train()`` in the LightningModule's own
    ``on_train_batch_start`` or in ``training_step`` comes after that, and is undone with the next batch. What is
    declared here is no finding of ``TrainEvalModeCheck`` (LT320).

    After the run, or an error in it, modes and ``requires_grad`` are what they were before.

    Args:
        modules: glob(s) on dotted names in the LightningModule; a name such as ``"net.backbone"`` means everything
            inside of it.
        parameters: whether their parameters are switched off too, before the optimizer is made. Default false: some
            recipes train scale and shift of batch norms whose statistics are fixed, or a backbone without its dropout.

    Attributes:
        frozen: what is frozen in this run.

    Raises:
        ValueError: if ``modules`` holds no names.
        MisconfigurationException: at the start of fit, for a glob that means no module.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> guard = FreezeGuard("net.backbone", parameters=True)
        >>> trainer = Trainer(callbacks=[guard], logger=False, enable_checkpointing=False)
    """

    def __init__(self, modules: str | list[str], *, parameters: bool = False) -> None:
        super().__init__()
        if not parse_globs("modules", modules):
            raise ValueError(f"`modules` must hold at least one glob on dotted names, got {modules!r}.")
        self.modules, self.parameters = modules, parameters
        self.frozen: Frozen | None = None
        self._call_off: Callable[[], None] | None = None
        self._was_moved = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for the parameters to be switched off as soon as all of them are there."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._unfreeze(trainer)
            self._was_moved = False
            self._call_off = after_configure_model(pl_module, lambda: self._freeze(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Declare what is frozen, and say so."""
        if self.frozen is None:
            return
        declare_frozen(trainer, self.frozen.names)
        journal = Desk.of(trainer).journal
        journal.note(f"FreezeGuard: {self.frozen}")
        norms = {name: norm for name, norm in tracking_batch_norms(pl_module).items() if name in self.frozen.modules}
        blank = [name for name, norm in norms.items() if not int(norm.num_batches_tracked or 0) and _is_blank(norm)]
        if blank:
            journal.note(f"FreezeGuard: {len(blank)} frozen batch norm(s) have no statistics yet, `{blank[0]}` first")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them into evaluation mode; Lightning keeps the modes of this moment, also around validations."""
        if self.frozen is not None:
            self.frozen.hold()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """See that they still are."""
        if self.frozen is None:
            return
        moved = self.frozen.hold()
        if moved and not self._was_moved:
            self._was_moved = True
            Desk.of(trainer).journal.note(
                f"FreezeGuard: `{moved[0]}` was put into training mode before step {trainer.global_step}, and put back"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put modes and ``requires_grad`` back."""
        self._unfreeze(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._unfreeze(trainer)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "frozen": None, "_call_off": None}

    def _freeze(self, pl_module: LightningModule) -> None:
        try:
            self.frozen = frozen(pl_module, self.modules, parameters=self.parameters, modes=False)
        except ValueError as error:
            message = str(error).replace("`include`", "`modules`")
            raise MisconfigurationException(f"FreezeGuard: {message}") from error

    def _unfreeze(self, trainer: Trainer) -> None:
        if self._call_off is not None:
            self._call_off()
        if self.frozen is not None:
            self.frozen.unfreeze()
        self.frozen = self._call_off = None
        declare_frozen(trainer, None)


def _is_blank(norm: Any) -> bool:
    """Whether mean and variance are as they were made."""
    return not bool(norm.running_mean.any()) and bool((norm.running_var == 1).all())
