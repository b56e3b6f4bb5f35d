"""What treatments of picked parameters have in common: which they are, and how to come right after an update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_tuning.functional._numbers import is_number
from lightning_tuning.functional.module_globs import parse_globs
from lightning_tuning.runtime import TuningCallback
from lightning_tuning.runtime.patterns import picked_parameters

__all__ = ["ParameterTreatment", "check_rate", "local"]


class ParameterTreatment(TuningCallback):
    """Knows its parameters from the start of training on, and is called after every update of one of them.

    An optimizer's own step hook tells of the update, so that it is the same in automatic and manual optimization. One
    that a GradScaler leaves out calls none; a fused optimizer's, which does, says so by its ``found_inf``; and
    parameters whose gradient a guard took away were not updated.

    Args:
        include: globs.
        exclude: globs; ``None`` for biases and normalization layers.
    """

    def __init__(self, include: str | Iterable[str], exclude: str | Iterable[str] | None) -> None:
        self.include = parse_globs("include", include) or ()
        self.exclude = parse_globs("exclude", exclude)
        if not self.include:
            raise ValueError(f"`include` must hold at least one glob, got {include!r}.")
        self.picked: dict[str, nn.Parameter] = {}
        self._ids: set[int] = set()
        self._handles: list[RemovableHandle] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit has parameters of its own."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._let_go()
            if isinstance(trainer.strategy, DeepSpeedStrategy):
                raise MisconfigurationException(
                    f"{type(self).__name__}: DeepSpeedStrategy keeps gradients and updates to itself. Put the penalty "
                    "into the loss or, for weight decay, into the optimizer."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pick the parameters, and have their optimizers tell of each update."""
        self._let_go()
        self.picked = picked_parameters(type(self).__name__, pl_module, self.include, self.exclude)
        self._ids = {id(p) for p in self.picked.values()}
        for optimizer in trainer.optimizers:
            if any(id(p) in self._ids for group in optimizer.param_groups for p in group["params"]):
                self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind on the optimizers."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Likewise."""
        self._let_go()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "picked": {}, "_ids": set(), "_handles": []}  # they are of this process

    def after_update(self, parameter: nn.Parameter, group: dict[str, Any], lr: float | Tensor) -> None:
        """``parameter`` of ``group`` was updated at the rate ``lr``: 0 where the update was left out after all."""

    def updated(self, optimizer: Optimizer) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
        """Those of its picked parameters that have a gradient, each with its group."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._ids and parameter.grad is not None:
                    yield parameter, group

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # a GradScaler's, 0-d, while a fused optimizer steps
        for parameter, group in self.updated(optimizer):
            lr = group.get("lr", 1.0)
            self.after_update(parameter, group, lr if found_inf is None else lr * (1 - found_inf))

    def _let_go(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self.picked, self._ids = [], {}, set()


def local(parameter: nn.Parameter) -> Tensor:
    """Its numbers: of a sharded parameter (``DTensor``) those of this rank."""
    data: Any = parameter.detach()
    numbers: Tensor = data.to_local() if hasattr(data, "to_local") else data
    return numbers


def check_rate(name: str, rate: Any, *, least: float | None = None) -> float:
    """``rate`` as a float.

    Raises:
        ValueError: if it is no finite number above 0 (of at least ``least``, if given).
    """
    if not is_number(rate) or not (rate > 0 if least is None else rate >= least):
        allowed = "above 0" if least is None else f"of at least {least:g}"
        raise ValueError(f"`{name}` must be a number {allowed}, got {rate!r}.")
    return float(rate)
