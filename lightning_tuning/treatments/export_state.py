"""Weights in a plain file beside each checkpoint, for whoever has no Lightning."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.findings.whole_file import write_whole
from lightning_tuning.functional.state_file import write_pth, write_safetensors
from lightning_tuning.functional.state_names import name_cleaner
from lightning_tuning.rules.non_finite_checkpoint import non_finite_checkpoint
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.treatments._export_content import four_keys, model_of, not_finite
from lightning_tuning.treatments._export_io import listen_to_checkpoints, stop_listening
from lightning_tuning.treatments._export_limits import (
    check_path,
    check_prefix,
    refuse_checkpoints,
    refuse_shards,
    without_ending,
)

__all__ = ["ExportState"]

_SHARDED = FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy


class ExportState(TuningCallback):
    """Writes the weights as a plain state dict too, which ``torch.load`` or safetensors read without Lightning.

    A Lightning checkpoint is a dict of the whole run: three times the size of the weights under Adam, with names that
    begin at the LightningModule, and what callbacks keep. For use elsewhere all that is wanted is
    ``net.load_state_dict(torch.load(path))``; see also :func:`~lightning_tuning.functional.load_state`.

    The file appears beside each checkpoint that is written, and goes when ``ModelCheckpoint`` removes that checkpoint,
    so that the best weights are always there in both forms. It is whole or not there: written aside, forced onto the
    disk, moved into place; a kill in mid-write leaves the one before. It holds what the checkpoint holds (averaged
    weights, if ``WeightAveraging`` puts them there), consolidated by the strategy, with the prefixes of
    ``torch.compile`` and ``DistributedDataParallel`` taken off.

    Weights that are not finite are not written: LT903 names the first, and the last good file stays, even if its
    checkpoint is removed, until there is a better one. What else goes wrong in writing (a full disk, say) is a warning
    and a note in the summary, and the run goes on: the checkpoint itself was written before.

    Only rank zero writes, to local folders. No file goes with a ``last.ckpt`` that is a link, with the passing
    checkpoints of a finder of learning rates, or with one that is saved by hand after the fit.

    Args:
        path: of the file. ``{checkpoint}`` is the checkpoint's path without its ending, ``{name}`` the last part of
            that; without either each export takes the place of the one before. Default ``None``: ``"{checkpoint}.pth"``
            (or ``.safetensors``), and ``model.pth`` in ``Trainer(default_root_dir=...)`` with ``when="end"``.
        format: ``"pth"`` (default, ``torch.save``: needs nothing but torch) or ``"safetensors"`` (read by other
            frameworks and in part, and never executed; of tied weights it holds one, and the other's name).
        contents: ``"model"`` (default), or ``"training"``: a dict of ``model``, ``optimizer``, ``scheduler`` and
            ``iteration`` (the state dicts, lists of them where there are several, ``None`` where there is none; and
            ``trainer.global_step``), from which a plain loop can go on.
        when: ``"checkpoint"`` (default), or ``"end"``: once, when the fit is over.
        prefix_strip: export only what lies under it, without it: ``"net."`` for a LightningModule that keeps its net
            in ``self.net``. Default ``None``: everything, by its full name.

    Attributes:
        files: paths of the exports of this fit that are there now, on rank zero.

    Raises:
        ValueError: for an argument outside of what is said above, or safetensors for ``contents="training"``.
        MisconfigurationException: at the start of fit: if nothing lies under ``prefix_strip``, if the file would take
            the checkpoint's place, if the strategy saves shards (FSDP with ``state_dict_type="sharded"``, ModelParallel
            with ``save_distributed_checkpoint=True``, DeepSpeed), if ``contents="training"`` meets a
            ``ModelCheckpoint(save_weights_only=True)``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> best = ModelCheckpoint(monitor="val_loss", filename="best")
        >>> trainer = Trainer(callbacks=[best, ExportState(prefix_strip="net.")], logger=False)
        >>> ExportState(format="zip")
        Traceback (most recent call last):
        ...
        ValueError: `format` must be 'pth' or 'safetensors', got 'zip'.

    Source: torch's tutorial "Saving and Loading Models": state dicts, not pickled modules; and with optimizer and
        iteration for a training that is to go on.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        format: Literal["pth", "safetensors"] = "pth",  # noqa: A002  # what it is called everywhere
        contents: Literal["model", "training"] = "model",
        when: Literal["checkpoint", "end"] = "checkpoint",
        prefix_strip: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("format", format, ("pth", "safetensors")),
            ("contents", contents, ("model", "training")),
            ("when", when, ("checkpoint", "end")),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be {allowed[0]!r} or {allowed[1]!r}, got {value!r}.")
        if contents == "training" and format == "safetensors":
            raise ValueError("`format` must be 'pth' with contents='training', got 'safetensors', which holds tensors.")
        check_prefix(prefix_strip)
        self._fields = check_path(path, when)
        self.path, self.format, self.contents, self.when = path, format, contents, when
        self.prefix_strip = prefix_strip
        self.files: list[str] = []
        self._kept: Path | None = None
        self._begin()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the strategy has whole weights to give, and listen to what it saves."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._begin()
        refuse_shards(trainer)
        if self.when == "checkpoint":
            refuse_checkpoints(trainer, self._target(Path("run")), is_whole=self.contents == "training")
            listen_to_checkpoints(trainer, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The names are known now."""
        if self.prefix_strip is None or isinstance(trainer.strategy, _SHARDED):
            return
        clean, start = name_cleaner(pl_module), f"{self.prefix_strip.rstrip('.')}."
        named = (*pl_module.named_parameters(), *pl_module.named_buffers())
        names = [clean(name) for name, _ in named]
        if not any(name.startswith(start) for name in names):
            heads = sorted({name.rpartition(".")[0] for name in names} | {name.partition(".")[0] for name in names})
            near = difflib.get_close_matches(self.prefix_strip.rstrip("."), heads, 3, 0.0)
            raise MisconfigurationException(
                f"ExportState(prefix_strip={self.prefix_strip!r}): no parameter of {type(pl_module).__name__} begins "
                f"with that; near are {near}."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export at the end, if that is asked for; say what was written."""
        is_trial = bool(getattr(trainer, "fast_dev_run", False))  # set by a connector of Lightning's
        if self.when == "end" and not is_trial:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(self.contents == "model")  # on every rank
            if trainer.is_global_zero:
                self._export(trainer, checkpoint, self._target(Path(trainer.default_root_dir) / "model"))
        if not trainer.is_global_zero:
            return
        note = Desk.of(trainer).journal.note
        if self.files:
            files = f"{self._written} file{'s' if self._written > 1 else ''}"
            note(f"ExportState wrote {files}, of which {len(self.files)} stayed, the last one {self.files[-1]}")
        for why, targets in self._failed.items():
            note(
                f"ExportState wrote no {targets[0].name}{f' and {len(targets) - 1} more' if targets[1:] else ''}: {why}"
            )
        if not (self.files or self._failed or is_trial or self._last_failed):
            note("ExportState wrote nothing: this fit saved no checkpoint")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        # Not in `on_exception`: whoever saves then is told of it later than this callback.
        super().teardown(trainer, pl_module, stage)
        stop_listening(trainer, self)

    def checkpoint_written(self, trainer: Trainer, checkpoint: dict[str, Any], path: Path) -> None:
        """Write the export of the checkpoint at ``path``; for the trainer's plugin, on rank zero."""
        self._export(trainer, checkpoint, self._target(without_ending(path)))

    def checkpoint_removed(self, trainer: Trainer, path: Path) -> None:
        """Remove its export too, unless it is the last good one; for the trainer's plugin, on rank zero."""
        if not self._fields:
            return
        target = self._target(without_ending(path))
        if self._last_failed and self.files and str(target) == self.files[-1]:
            self._kept = target
            return
        self._remove(target)

    def _begin(self) -> None:
        self.files, self._written, self._last_failed = [], 0, False
        self._failed: dict[str, list[Path]] = {}
        self._kept = None

    def _target(self, stem: Path) -> Path:
        if self.path is None:
            return stem.parent / f"{stem.name}.{self.format}"
        return Path(self.path.format(checkpoint=stem, name=stem.name))

    def _export(self, trainer: Trainer, checkpoint: Mapping[str, Any], target: Path) -> None:
        module = trainer.lightning_module
        self._last_failed = True  # until it is written
        if names := not_finite(checkpoint, module, moments=self.contents == "training"):
            finding = non_finite_checkpoint(
                names,
                path=str(target),
                kept=self.files[-1] if self.files else "",
                step=trainer.global_step,
                is_resumable=False,
            )
            if trainer.interrupted:
                self._fail(target, finding.message)
            else:
                self.report(trainer, finding)
            return
        try:
            model = model_of(checkpoint, module, self.prefix_strip)
            if self.format == "safetensors":
                write_whole(target, lambda draft: write_safetensors(draft, model))
            else:
                content = model if self.contents == "model" else four_keys(checkpoint, model)
                write_whole(target, lambda draft: write_pth(draft, content))
        except (OSError, ValueError, RuntimeError) as error:
            self._fail(target, f"{type(error).__name__}: {error}")
            return
        self._written += 1
        self._last_failed = False
        self.files = [*(file for file in self.files if file != str(target)), str(target)]
        if self._kept is not None and self._kept != target:
            self._remove(self._kept)
        self._kept = None

    def _remove(self, target: Path) -> None:
        target.unlink(missing_ok=True)
        self.files = [file for file in self.files if file != str(target)]

    def _fail(self, target: Path, why: str) -> None:
        if why not in self._failed:
            rank_zero_warn(f"ExportState wrote no {target.name}: {why}")
        self._failed.setdefault(why, []).append(target)
