"""Calls a module's own ``init_weight`` for each of its layers, once, before anybody has looked at a weight."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning.functional._layers import weight_slots
from lightning_tuning.runtime.callback import TuningCallback
from lightning_tuning.runtime.configure_model import after_configure_model
from lightning_tuning.runtime.desk import Desk
from lightning_tuning.runtime.fresh_weights import is_set_weight
from lightning_tuning.runtime.seeding import seeded_for

__all__ = ["WeightHook"]


class WeightHook(TuningCallback):
    """Goes through a module's layers, children first, behind its ``configure_model`` and before every other treatment.

    Args:
        name: of whoever brings it along, for people.
    """

    _done: ClassVar[weakref.WeakSet[nn.Module]] = weakref.WeakSet()
    """Modules that had their turn in this process: a second fit goes on with what the first has trained."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._call_off: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for the call."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._abandon()
            seed = trainer.strategy.broadcast(torch.initial_seed())
            self._call_off = after_configure_model(pl_module, lambda: self._call(trainer, pl_module, seed), first=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind on the module."""
        self._abandon()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind on the module."""
        self._abandon()

    def _call(self, trainer: Trainer, pl_module: Any, seed: int) -> None:
        note = Desk.of(trainer).journal.note
        if trainer.global_step > 0 or pl_module in self._done:
            return
        overwrites = pl_module.init_overwrite
        if pl_module.init_was_loaded and not overwrites:
            self._done.add(pl_module)
            note(f"{self.name} left all weights alone: they were loaded before the fit")
            return
        set_layers, count = [], 0
        for name, layer in _children_first(pl_module):
            if any(parameter.is_meta for parameter in layer.parameters(recurse=False)):
                raise MisconfigurationException(
                    f"{self.name} cannot initialize {name!r}: its weights are on the meta device when `configure_model`"
                    " returns. Make them in `configure_model`, or initialize them where they are made."
                )
            if not overwrites and _is_set(layer):
                set_layers.append(name)
                continue
            device = next((parameter.device for parameter in layer.parameters(recurse=False)), torch.device("cpu"))
            with seeded_for(name, seed, device), torch.no_grad():
                pl_module.init_weight(layer)
            count += any(True for _ in layer.parameters(recurse=False))
        self._done.add(pl_module)
        left = f"; set before the fit and left alone: {', '.join(set_layers[:6])}" if set_layers else ""
        more = f" and {len(set_layers) - 6} more" if len(set_layers) > 6 else ""
        note(f"{self.name} showed {count} layers with parameters to `init_weight` (seed {seed}){left}{more}")

    def _abandon(self) -> None:
        if self._call_off is not None:
            self._call_off()
        self._call_off = None


def _children_first(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module once, with its path, behind all that it contains; the order of ``nn.Module.apply``."""
    seen: set[nn.Module] = set()

    def visit(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        for name, child in module.named_children():
            yield from visit(f"{path}.{name}" if path else name, child)
        yield path, module

    yield from visit("", root)


def _is_set(layer: nn.Module) -> bool:
    """A weight of it was loaded, trained or filled by hand since the layer was built."""
    for slot in weight_slots(layer):
        weight = layer.get_parameter(slot.name)
        is_plain = weight.numel() > 0 and weight.is_floating_point() and not hasattr(weight, "to_local")
        if is_plain and is_set_weight(weight, slot.default_bound):
            return True
    return False
