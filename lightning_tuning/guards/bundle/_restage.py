"""A recorded step run once more: the module put into the state of then, under a trainer that does likewise."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.amp import GradScaler

from lightning_tuning.guards.bundle._load import load_into
from lightning_tuning.guards.bundle._read import Bundle
from lightning_tuning.guards.bundle._tree import unpack
from lightning_tuning.trace import CannotReplay, Origin, find_origin

__all__ = ["Repetition", "recorded_settings", "repeat_bundle"]

_PRECISIONS = frozenset({"64-true", "32-true", "16-true", "bf16-true"})


@dataclasses.dataclass(frozen=True)
class Repetition:
    """What came of it.

    Attributes:
        recorded: where the first bad number came from then; ``None``: not known.
        now: the same, now; of kind ``"not-reproduced"`` if the step is finite; ``None`` if that could not be told.
        obstacle: why not.
        notes: what is not as it was, a line each.
    """

    recorded: Origin | None
    now: Origin | None
    obstacle: str = ""
    notes: tuple[str, ...] = ()

    @property
    def finite(self) -> bool:
        """The step is finite now."""
        return self.now is not None and self.now.kind == "not-reproduced"

    @property
    def same(self) -> bool:
        """The same cause in the same operation; any cause, if then none was known."""
        if self.now is None or self.finite:
            return False
        return self.recorded is None or (self.recorded.cause, self.recorded.op) == (self.now.cause, self.now.op)


@contextlib.contextmanager
def recorded_settings(bundle: Bundle) -> Iterator[None]:
    """The global settings of torch as they were, which the module is built under too."""
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    dtype = getattr(torch, bundle.run["default_dtype"], None)
    try:
        if isinstance(dtype, torch.dtype):
            torch.set_default_dtype(dtype)
        if bundle.run["matmul_precision"] in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(bundle.run["matmul_precision"])
        yield
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])


def repeat_bundle(
    bundle: Bundle,
    pl_module: LightningModule,
    *,
    datamodule: LightningDataModule | None = None,
    accelerator: str = "cpu",
    partial: bool = False,
) -> Repetition:
    """Run the step of ``bundle`` once more, every operation watched, and say where its first bad number comes from.

    Args:
        bundle: see :func:`read_bundle`.
        pl_module: built anew; its parameters, buffers and modes are overwritten.
        datamodule: if ``setup`` or the step of the module ask for one.
        accelerator: as of ``Trainer``. Default ``"cpu"``: a bundle from a GPU can be repeated anywhere.
        partial: whether a module that lacks some of the recorded tensors, or has others, is repeated with those that
            fit. Default false.

    Raises:
        BundleError: if the module's parameters or buffers are not those recorded, with their names.
    """
    notes: list[str] = [f"not kept: {line}" for line in bundle.run["not_kept"]]
    trainer = _trainer(bundle, accelerator, notes)
    _attach(trainer, pl_module, datamodule, notes)
    notes += load_into(pl_module, bundle, partial=partial)
    pl_module.to(trainer.strategy.root_device)
    _set_progress(trainer, bundle.run)
    _set_optimizers(trainer, pl_module, bundle, notes)
    batch = bundle.batch(home=type(pl_module).__module__, lost=notes)
    if bundle.rng is None:
        notes.append("the random numbers of then were not kept")
    elif (then := torch.device(bundle.run["device"]).type) not in ("cpu", trainer.strategy.root_device.type):
        notes.append(f"random numbers that were drawn on {then} (dropout) are others here")
    batch = move_data_to_device(batch, trainer.strategy.root_device)
    try:
        now, obstacle = find_origin(trainer, pl_module, batch, bundle.batch_idx, rng=bundle.rng), ""
    except CannotReplay as limit:
        now, obstacle = None, str(limit)
    if now is None and not obstacle:
        obstacle = "The step returns no loss."
    return Repetition(bundle.origin, now, obstacle, tuple(notes))


class _Replayer(Trainer):
    """A trainer that trains nothing, and plans as many steps as the run did."""

    steps_planned: float | None = None

    @property
    def estimated_stepping_batches(self) -> int | float:
        """As it was."""
        return super().estimated_stepping_batches if self.steps_planned is None else self.steps_planned


def _trainer(bundle: Bundle, accelerator: str, notes: list[str]) -> Trainer:
    run = bundle.run
    keywords: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "logger": False, "barebones": False}
    keywords |= dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    keywords |= {key: run[key] for key in ("max_epochs", "max_steps") if isinstance(run.get(key), int)}
    if run["automatic_optimization"]:
        keywords["accumulate_grad_batches"] = run["accumulate_grad_batches"]
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # devices there are
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = _Replayer(**keywords, **_precision(run, accelerator, notes))
    finally:
        log.setLevel(level)
    planned = run.get("steps_planned")
    trainer.steps_planned = planned if isinstance(planned, int | float) else None
    return trainer


def _precision(run: dict[str, Any], accelerator: str, notes: list[str]) -> dict[str, Any]:
    """What makes ``Trainer`` compute as then; autocast and its scale on the CPU too, where Lightning takes bf16."""
    name = run["precision"]
    if run["precision_plugin"] not in ("MixedPrecision", "HalfPrecision", "DoublePrecision", Precision.__name__):
        notes.append(f"computed by {run['precision_plugin']} then, by Lightning's own plugin for {name} now")
    if name in ("16-mixed", "bf16-mixed"):
        device = "cpu" if accelerator == "cpu" else str(run.get("autocast_device") or "cuda")
        scale = run.get("scale")
        scaler = None
        if name == "16-mixed":
            scaler = GradScaler(device, init_scale=float(scale or 1.0), enabled=scale is not None)
        plugin = MixedPrecision(name, device, scaler)
        return {"plugins": [plugin]}
    if name in _PRECISIONS:
        return {"precision": name}
    notes.append(f"precision {name} is not to be had here; computed in the weights' own")
    return {}


def _attach(
    trainer: Trainer, pl_module: LightningModule, datamodule: LightningDataModule | None, notes: list[str]
) -> None:
    """What a fit does to a module before its first batch."""
    trainer.strategy.connect(pl_module)
    pl_module.trainer = trainer
    trainer.state.fn, trainer.training = TrainerFn.FITTING, True
    if datamodule is not None:
        datamodule.trainer = trainer
        trainer.datamodule = datamodule  # type: ignore[attr-defined]  # as Lightning's data connector sets it
        datamodule.setup("fit")
    if is_overridden("setup", pl_module, LightningModule):
        try:
            pl_module.setup("fit")
        except Exception as error:  # noqa: BLE001  # most read the data, which need not be here
            notes.append(f"setup('fit') of the module raised {type(error).__name__}: {error}")
    if is_overridden("configure_model", pl_module, LightningModule):
        pl_module.configure_model()


def _set_progress(trainer: Trainer, run: dict[str, Any]) -> None:
    """``global_step``, ``current_epoch`` and the like, which a step may read."""
    loop, step = trainer.fit_loop, run["step"]
    loop.epoch_progress.current.completed = run["epoch"]
    loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = step
    loop.epoch_loop.batch_progress.current.ready = run["batch_idx"] + 1
    if isinstance(run.get("train_batches"), int):
        loop.max_batches = run["train_batches"]


def _set_optimizers(trainer: Trainer, pl_module: LightningModule, bundle: Bundle, notes: list[str]) -> None:
    """The optimizers, which a manual step takes apart, and whose learning rate any step may read."""
    try:
        trainer.strategy.setup_optimizers(trainer)
        for kind, there in (("optimizers", trainer.optimizers), ("schedulers", _schedulers(trainer))):
            for one, state in zip(there, getattr(bundle, kind), strict=True):
                one.load_state_dict(unpack(state, home=type(pl_module).__module__))
    except Exception as error:  # noqa: BLE001  # the user's configure_optimizers, and states of another optimizer
        notes.append(f"optimizers are not as then ({type(error).__name__}: {error})".replace("\n", " "))


def _schedulers(trainer: Trainer) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]
