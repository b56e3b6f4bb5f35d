"""A training step run once more, apart from the run, with everything put back after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.trace._idle import idle_trainer_parts, ignore
from lightning_tuning.trace._restore import Restorer
from lightning_tuning.trace._step import CannotReplay, load_buffers, run_backward, step_arguments
from lightning_tuning.trace.batch import batch_tensors
from lightning_tuning.trace.rng import RngState

__all__ = ["CannotReplay", "aside", "is_aside", "replay"]


class _StepEndedEarly(BaseException):
    """A manual step has reached the loss asked for. Not an ``Exception``: the model's own ``try`` lets it pass."""


_running: ContextVar[bool] = ContextVar("lightning_tuning_aside", default=False)


def is_aside() -> bool:
    """Whether the code that asks runs inside :func:`aside`; observers with hooks on modules or tensors then look away.

    Example:
        >>> is_aside()
        False
    """
    return _running.get()


@contextmanager
def aside(
    trainer: Trainer,
    pl_module: LightningModule,
    *,
    batch: Any = None,
    on_manual_backward: Callable[..., None] = ignore,
    force_eager: bool = True,
) -> Iterator[None]:
    """Undo whatever is done to the training run inside the ``with`` block, bit for bit, however the block ends.

    A training step may be called in it (``pl_module.training_step(batch, batch_idx)``; :func:`replay` does that with
    precision, RNG and arguments right), also between the forward and the backward pass of the real step, whose graph
    stays valid.

    Put back are: the random number generators of all devices, of Python and NumPy and those that a module holds;
    buffers; parameters, their gradients (the same tensors) and ``requires_grad``; training flags; every attribute of
    the LightningModule and its submodules that is a tensor, a plain value or a list, dict, set, deque or tuple of such,
    nested too; torchmetrics states in collections and compute groups, also of metrics kept in plain containers;
    ``param_groups`` of the optimizers; ``trainer.should_stop``. Nothing is logged or printed through Lightning
    (``log``, ``log_dict``, ``print``, ``trainer.loggers``) and no callback runs. Under manual optimization
    ``optimizers()`` and ``lr_schedulers()`` return idle ones and ``manual_backward`` calls ``on_manual_backward``
    alone.

    Not put back, because it cannot be seen: the state of other objects that a module holds (a replay buffer of an own
    class), of optimizers and schedulers written to directly, tensors in containers of more than 10,000 items that are
    written in place, files, printing, whatever else leaves the process. Collectives in the forward pass (SyncBatchNorm,
    ``all_gather``) need every rank to do the same.

    Price: a copy of parameters, buffers and tensor attributes for its duration, beside the memory of the step itself.

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule (not the wrapper of a strategy).
        batch: put back as well if given: what its containers hold, and tensors in it that were written to.
        on_manual_backward: called with the arguments of each ``manual_backward``. Default: nothing happens there.
        force_eager: run compiled modules eagerly, so that modes and hooks see their operations; their compiled code is
            kept. Default true: an extra step is no reason to recompile.

    Raises:
        CannotReplay: with sharded parameters (FSDP, model parallel, DeepSpeed), whose storage a direct call does not
            manage, and with lazy modules that have not seen a batch yet.
    """
    if sentence := _obstacle(trainer, pl_module):
        raise CannotReplay(sentence)
    restorer, rng = Restorer(), RngState.capture()
    running = _running.set(True)
    with ExitStack() as undone:  # one that fails leaves the others to do their part
        undone.callback(_running.reset, running)
        undone.callback(rng.restore)
        undone.callback(restorer.restore)
        restorer.module(pl_module)
        restorer.containers(batch)
        for _, tensor in batch_tensors(batch):
            restorer.read_only(tensor)
        for part in pl_module.modules():
            if isinstance(part, LightningModule):
                part.__dict__.update(log=ignore, log_dict=ignore, print=ignore)
        pl_module.__dict__["manual_backward"] = on_manual_backward
        idle_trainer_parts(trainer, pl_module, restorer)
        toggled: dict[Any, bool] = dict(pl_module._param_requires_grad_state)  # typed by Lightning as if keyed by name
        for parameter, flag in toggled.items():  # in the middle of a step with a toggled optimizer
            parameter.requires_grad_(flag)
        with _no_ambient_autocast(), _eager() if force_eager else nullcontext():
            yield


def replay(
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    batch_idx: int,
    *,
    rng: RngState | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    backward: bool = False,
    context: AbstractContextManager[Any] | None = None,
    inspect: Callable[[list[Tensor]], None] | None = None,
    force_eager: bool = True,
    stop_after: int | None = None,
    dataloader_idx: int = 0,
) -> list[Tensor]:
    """Run ``training_step`` once more in :func:`aside` and return the losses that went to backward.

    With the ``rng`` and the ``buffers`` of the batch's start, the losses are those of the real step, bit for bit
    (buffers matter where the forward pass reads what it has written before, as spectral norm does).

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule; ``training_step`` is called on it directly, under the trainer's precision and
            with gradients enabled.
        batch: the batch as ``training_step`` got it, on its device.
        batch_idx: its index, passed if the signature takes one.
        rng: state of the random number generators to start from. Default: as they are.
        buffers: values to start from, by name as in ``named_buffers``; others as they are.
        backward: run the backward pass too, on each loss as the run would: divided by ``accumulate_grad_batches``
            (automatic optimization) and multiplied by the scale of a GradScaler. Gradients are then in ``p.grad`` until
            the end. A manual step that reads ``p.grad`` needs this. The module's own ``backward`` and ``on_*`` hooks
            are not called.
        context: entered around the step and its backward pass, after everything was set up (a Recorder, a mode).
        inspect: called with the losses before anything is put back; the place to look at ``p.grad``.
        force_eager: as for :func:`aside`.
        stop_after: end a manual step at its n-th ``manual_backward`` (1 or more). Default: run it to the end.
        dataloader_idx: passed if the signature names it.

    Returns:
        Automatic optimization: the returned loss, undivided, or nothing if the step returned none. Manual: each loss
        given to ``manual_backward``, or the returned loss if there was none. Optimizers do not step in between, so that
        the later losses of a manual step are those of the weights before it.

    Raises:
        CannotReplay: as :func:`aside`, and for a step that takes ``dataloader_iter`` (its batch is gone).
        ValueError: if ``stop_after`` is less than 1 or ``buffers`` names one that does not exist.
        Exception: whatever ``training_step`` raises, after everything was put back.
    """
    if stop_after is not None and stop_after < 1:
        raise ValueError(f"`stop_after` must be at least 1 or None, got {stop_after}")
    arguments, keywords = step_arguments(pl_module, batch, batch_idx, dataloader_idx)
    losses: list[Tensor] = []

    def on_manual_backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(loss)
        if backward:
            run_backward(trainer, pl_module, loss, *args, **kwargs)
        if len(losses) == stop_after:
            raise _StepEndedEarly

    with ExitStack() as stack:
        stack.enter_context(
            aside(trainer, pl_module, batch=batch, on_manual_backward=on_manual_backward, force_eager=force_eager)
        )
        load_buffers(pl_module, buffers or {})
        if rng is not None:
            rng.restore()
        with context if context is not None else nullcontext(), torch.enable_grad():
            output: Any = None
            try:
                with trainer.precision_plugin.train_step_context():
                    output = pl_module.training_step(*arguments, **keywords)
            except _StepEndedEarly:
                pass
            loss = output.get("loss") if isinstance(output, Mapping) else output
            if not losses and isinstance(loss, Tensor):
                losses.append(loss)
                if backward and pl_module.automatic_optimization:
                    run_backward(trainer, pl_module, loss / trainer.accumulate_grad_batches)
        if inspect is not None:
            inspect(losses)
    return losses


def _obstacle(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Why nothing can be run aside here, if so."""
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        name = type(trainer.strategy).__name__
        return f"A step cannot be run aside under {name}: its own forward gathers the sharded parameters."
    parameters: list[tuple[str, Any]] = list(pl_module.named_parameters())
    lazy = [name for name, parameter in parameters if is_lazy(parameter)]
    if lazy:
        return f"A step cannot be run aside before the first batch of a lazy module: {lazy[0]!r} has no shape yet."
    return None


@contextmanager
def _no_ambient_autocast() -> Iterator[None]:
    """Leave the autocast region of a manual step that is under way, whose cache of casts belongs to its graph."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "xpu", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        yield


def _eager() -> AbstractContextManager[Any]:
    """Compiled code is run eagerly; nothing to do (and a second of import saved) where nothing was compiled."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
