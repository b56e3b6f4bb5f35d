"""``TuningReport``: keeps a run in a folder, and makes a report of it."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.recording._recorder import Recorder
from lightning_tuning.reporters.html import ReportExtraError
from lightning_tuning.runtime import Desk, Sparing, TuningCallback

__all__ = ["TuningReport"]

_EXTRA = ("jinja2", "altair", "vl_convert")


class TuningReport(TuningCallback):
    """Keeps what is measured and found in a run in a folder, line by line, and makes an HTML report of it at the end.

    Why: a run that went wrong in the night is judged by what it left. Findings are kept as they come, with the curves
    in which they can be seen: of a run that was killed as well, out of whose folder the report can be made afterwards.

    The folder holds ``findings.jsonl``, ``readings.jsonl``, ``run.json`` and ``model.json``, as
    :mod:`~lightning_tuning.reporters.run_record` describes them; ``read_run`` reads them back. What is measured is what
    the other callbacks measure anyway, and what those attached have by layer: with :class:`TuningSuite` all of it; by
    itself losses, gradient norms, learning rates, validations and the traced model. ``readings.jsonl`` stays small:
    each of the first 1,000 steps has a line, later ones share them (10 steps to a line, from step 10,000 on 100, and so
    on): 3,700 lines for a million steps. Numbers by layer come every ``every_n_steps``, or with each further hundredth
    of the run.

    Lines are written 20 at a time, or when the last writing is a second ago: a process that is killed takes with it at
    most the last 31 steps of the first 1,000 (the 10 that land together, those 20 lines, and the step itself), later
    also the line that is not full, which is a hundredth of the run at most. The report is made at the end of ``fit``,
    after an error or an interrupt too, and by :meth:`write`.

    A run that is resumed from a checkpoint goes on in its folder. Any other run that lies there is moved aside first
    (to ``report_run-1`` and so on, its report with it). ``validate``, ``test`` and ``predict`` leave nothing. Only the
    first of several processes writes. Changes nothing, never waits for the device in a step; a failure of its own is
    told in the summary and does not end the run.

    Price: beside the suite 7 microseconds a step, 3 of them from step 1,000 on, measured by the CPU's clock with the
    lines written to disk; the report takes a second or two at the end. By itself it has the gradient norms measured and
    the first step traced, which the suite does anyway. What all callbacks of this library cost is in the record
    (``"cost"``): their hooks are timed in ten steps of each 500, and in no other.

    Args:
        path: of the HTML file, which is replaced; it needs the extra ``report``. ``None``: keep the run, make no
            report.
        run_dir: the folder; by default beside ``path``, ``"report_run"`` for ``"report.html"``. Relative paths begin at
            the working directory.
        every_n_steps: steps (of ``trainer.global_step``) from one sample of gradient norms by parameter, of learning
            rates, and of what others measure by layer to the next; 50 by default, at which others measure.

    Raises:
        ValueError: if ``path`` or ``run_dir`` is no path or is taken, or ``every_n_steps`` no whole number of at least
            1.
        ReportExtraError: if ``path`` is given and the extra ``report`` is not installed.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> report = TuningReport(path=None, run_dir="runs/7")
        >>> trainer = Trainer(callbacks=[report], logger=False, accelerator="cpu")
        >>> # trainer.fit(model); lightning_tuning.reporters.run_folder.read_run("runs/7").findings
    """

    place: Callable[[Trainer], tuple[Path, Path]] | None = None
    """Where there is one: tells the folder and the report of each trainer, in the place of the arguments."""

    def __init__(
        self, path: str | Path | None = "report.html", run_dir: str | Path | None = None, every_n_steps: int = 50
    ) -> None:
        self.path, self.run_dir = _path("path", path), _path("run_dir", run_dir)
        if self.path is not None and self.path.is_dir():
            raise ValueError(f"`path` must be that of an HTML file, got {path!r}, which is a folder.")
        if self.run_dir is not None and self.run_dir.exists() and not self.run_dir.is_dir():
            raise ValueError(f"`run_dir` must be a folder, or none yet, got {run_dir!r}, which is a file.")
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise ValueError(f"`every_n_steps` must be a whole number of at least 1, got {every_n_steps!r}.")
        missing = [name for name in _EXTRA if path is not None and importlib.util.find_spec(name) is None]
        if missing:
            raise ReportExtraError(
                f"`path` is {path!r}, but a report needs {' and '.join(missing)}: "
                '`pip install "lightning-tuning[report]"`; with `path=None` the run is kept without it.'
            )
        self.every_n_steps = every_n_steps
        self._recorder: Recorder | None = None

    @property
    def folder(self) -> Path | None:
        """Where the run is kept; ``None`` before there is anything to keep, and on other ranks than the first."""
        files = None if self._recorder is None else self._recorder.record.files
        return None if files is None else files.folder

    def write(self) -> Path | None:
        """Write down now what is known, and make the report of it, in the run or after it.

        Returns:
            Where the report lies; ``None`` without ``path``, and on other ranks than the first.

        Raises:
            RuntimeError: before there was a run.
        """
        if self._recorder is None:
            raise RuntimeError("there is nothing to write yet: no run was kept; `trainer.fit` comes first.")
        return self._recorder.record.write()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for everything that is to be kept; a new fit is a new run."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._let_go()
        if self.place is not None:
            self.run_dir, report = self.place(trainer)
            self.path = None if self.path is None else report
        folder = self.run_dir
        if folder is None:
            folder = Path("report_run") if self.path is None else self.path.with_name(f"{self.path.stem}_run")
        self._recorder = Recorder(
            trainer,
            every_n_steps=self.every_n_steps,
            folder=folder.absolute(),
            report=None if self.path is None else self.path.absolute(),
            run=uuid.uuid4().hex,
        )
        self._recorder.attach()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All that is set up is set up: from here on the run leaves a record, however it ends."""
        if self._recorder is not None:
            self._recorder.open()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The stop-watch rests."""
        if self._recorder is not None:
            self._recorder.pause()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See :meth:`on_validation_start`."""
        if self._recorder is not None:
            self._recorder.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the numbers of a validation within a fit."""
        if self._recorder is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            with Sparing(Desk.of(trainer).journal, self):
                self._recorder.validated()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say so in the record; the rest is written when the desk has closed the journal."""
        if self._recorder is not None and trainer.state.fn == "fit":
            self._recorder.fail(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the files."""
        if stage == "fit":
            self._let_go()

    def tuning_state(self) -> dict[str, Any]:
        """Which run this is."""
        return {} if self._recorder is None else {"run": self._recorder.record.run}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """The same run goes on."""
        if self._recorder is not None and self._recorder.record.files is None:
            self._recorder.record.run = str(state["run"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recorder": None}  # it is of this process

    def _let_go(self) -> None:
        if self._recorder is not None:
            self._recorder.detach()


def _path(name: str, given: Any) -> Path | None:
    if given is not None and not (isinstance(given, str | Path) and Path(given).name):
        raise ValueError(f"`{name}` must be a path or None, got {given!r}.")
    return None if given is None else Path(given)
