"""The recommended set of checks, monitors and guards as one callback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.checks import (
    BatchNormCheck,
    DataCheck,
    DropoutBNConflictWarning,
    DropoutCheck,
    GradientFlowCheck,
    InitCheck,
    LossHeadCheck,
    OptimizerCheck,
    RunCheck,
    ScheduleCheck,
    TargetCheck,
    TrainEvalModeCheck,
)
from lightning_tuning.findings import Finding, Journal, OnFinding
from lightning_tuning.findings.settings import Settings, settings_here
from lightning_tuning.guards import NanLossGuard, ReplicaDriftGuard
from lightning_tuning.monitors import (
    ActivationMonitor,
    ClippingMonitor,
    GradientExplosionMonitor,
    GradientVanishingMonitor,
    LearningCurveMonitor,
    OverfittingMonitor,
    PenaltyMonitor,
    RateMonitor,
    StaleGradientMonitor,
    UpdateMonitor,
    VarianceShiftMonitor,
)
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.forwarding import FORWARDED, forward
from lightning_tuning.runtime.options import make_with_options
from lightning_tuning.runtime.reporting import configure
from lightning_tuning.runtime.sparing import nothing_more_raised

__all__ = ["TuningSuite"]

RECOMMENDED: tuple[tuple[type[TuningCallback], dict[str, Any]], ...] = (
    (DataCheck, {}),
    (TargetCheck, {}),
    (InitCheck, {}),
    (DropoutBNConflictWarning, {"severity": "info"}),
    (DropoutCheck, {}),
    (BatchNormCheck, {}),
    (LossHeadCheck, {}),
    (GradientFlowCheck, {}),
    (TrainEvalModeCheck, {}),
    (OptimizerCheck, {}),
    (ScheduleCheck, {}),
    (RunCheck, {}),
    (GradientExplosionMonitor, {}),
    (RateMonitor, {}),
    (PenaltyMonitor, {}),
    (GradientVanishingMonitor, {}),
    (UpdateMonitor, {}),
    (ClippingMonitor, {}),
    (ActivationMonitor, {}),
    (StaleGradientMonitor, {}),
    (LearningCurveMonitor, {}),
    (OverfittingMonitor, {}),
    (VarianceShiftMonitor, {}),
    (NanLossGuard, {}),
    (ReplicaDriftGuard, {}),
)
"""The recommended set with its arguments, in the order in which it is called."""

_CHECKS = "lightning_tuning.checks."


class TuningSuite(TuningCallback):
    """All that a run should have by default, as one callback: the checks, the monitors and two guards.

    The guards are :class:`NanLossGuard` and :class:`ReplicaDriftGuard`; what is measured on request only
    (:class:`Preflight`, :class:`StabilityProbe`) is not in it.

    Why one: Lightning calls every hook of every callback, and fifty callbacks cost .4 ms a step doing nothing; the
    suite forwards only the hooks that its members override. A healthy run is not changed by a single bit. (Where the
    first step has to be repeated aside, because a part of the module is compiled, that holds for all that torch,
    Lightning and the module keep; what the step leaves elsewhere, in a global list or a file, it leaves twice.)

    An instance of your own replaces the suite's member of that class, wherever it stands in the list:
    ``Trainer(callbacks=[TuningSuite(), NanLossGuard(action="skip")])`` skips. Members keep their state in the
    checkpoint under their own names, so a resumed run may have the suite, or single callbacks, as it likes.

    Args:
        select: what is taken: codes (``"LT601"``), prefixes (``"LT6"``), rule names, or globs on module paths
            (``"encoder.*"``). ``None`` (default) takes everything.
        ignore: what is dropped, in the same terms; it wins over ``select``.
        on_finding: ``"warn"`` (default) gives a :class:`TuningWarning` for each finding of severity warning and above;
            ``"raise"`` ends the run on every rank with :class:`TuningError`.
        per_path_ignores: what is dropped where the finding's source line lies in a file that the glob matches,
            ``{"legacy/*.py": ["LT3"]}``.
        severity: what findings of a rule are called instead, ``{"LT901": "warning"}``.
        options: arguments of members by their class, ``{"UpdateMonitor": {"every_n_steps": 10}}``.
        checks_only: leave monitors and guards out.
        log_findings: give findings to the trainer's loggers too, as text and as numbers (``True``; see
            :class:`LoggerReporter`). What is measured is logged anyway.

    An argument that is ``None`` (the default of all) is what the environment variable ``LIGHTNING_TUNING`` says, and
    where that says nothing what the nearest ``pyproject.toml`` has under ``[tool.lightning-tuning]``. A comment
    ``# tuning: ignore[LT301] reason`` silences a rule on its line.

    Attributes:
        members: the callbacks that the suite calls.
        gives_way: it retires where another one is attached that does not; set by the plugin, for a suite that the
            script did not ask for.

    Raises:
        ValueError: for an unknown ``on_finding``, code, prefix, severity, member or argument of one, given here or in
            one of those places.
        MisconfigurationException: at the start of a run, if a second suite with other arguments is attached to the
            trainer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> suite = TuningSuite(ignore=["LT301"])
        >>> trainer = Trainer(callbacks=[suite], logger=False, accelerator="cpu")
        >>> suite.findings  # readable during and after fit
        []
    """

    gives_way = False

    def __init__(
        self,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        on_finding: OnFinding | None = None,
        *,
        per_path_ignores: dict[str, list[str]] | None = None,
        severity: dict[str, str] | None = None,
        options: dict[str, dict[str, Any]] | None = None,
        checks_only: bool | None = None,
        log_findings: bool | None = None,
    ) -> None:
        given = Settings(
            _tuple(select),
            _tuple(ignore),
            on_finding,
            per_path_ignores,
            severity,
            options,
            checks_only,
            log_findings,
        )
        settings = given.over(settings_here())
        self._settings: dict[str, Any] = {
            "select": settings.select,
            "ignore": settings.ignore or (),
            "on_finding": settings.on_finding or "warn",
            "per_path_ignores": settings.per_path_ignores or {},
            "severity": settings.severity or {},
            "log_findings": True if settings.log_findings is None else settings.log_findings,
        }
        configure(Journal(), **self._settings)  # the one place that knows what is allowed
        members = make_with_options(RECOMMENDED, settings.options)
        if settings.checks_only:
            members = [member for member in members if type(member).__module__.startswith(_CHECKS)]
        self._recommended = members
        self._journal: Journal | None = None
        self._is_retired = False
        self.members: list[TuningCallback] = list(self._recommended)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, worst first; after fit that of all ranks.

        ``ddp_spawn`` leaves it in its processes: their parent has none.
        """
        return [] if self._journal is None else self._journal.findings

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Configure the journal, give way to the user's own instances, and set the members up."""
        super().setup(trainer, pl_module, stage)
        self._refuse_or_retire(trainer)
        self._journal = Desk.of(trainer).journal
        if not self._is_retired:
            configure(self._journal, **self._settings)
        for member in self.members:
            member.setup(trainer, pl_module, stage)
        forward(self, self.members, trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector of Lightning's

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tear the members down; a later run without a suite has none of its settings."""
        for member in self.members:
            member.teardown(trainer, pl_module, stage)
        if stage == "fit":
            self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no ``teardown`` then."""
        if desk := Desk.find(trainer):
            with nothing_more_raised():
                desk.meter.hand_on()  # by the suite's settings
        for member in self.members:
            member.on_exception(trainer, pl_module, exception)
        self._let_go()

    def _let_go(self) -> None:
        if self._journal is not None and not self._is_retired:
            self._journal.configure()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The members' states, each under its own name."""
        for member in self.members:
            member.on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """See :meth:`on_save_checkpoint`."""
        for member in self.members:
            member.on_load_checkpoint(trainer, pl_module, checkpoint)

    def __getstate__(self) -> dict[str, Any]:
        """Without the run: hooks are bound again, and the journal found again, by ``setup``."""
        state = {name: value for name, value in self.__dict__.items() if name not in FORWARDED}
        return {**state, "_journal": None}

    def _refuse_or_retire(self, trainer: Trainer) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
        suites = [callback for callback in callbacks if isinstance(callback, TuningSuite)]
        suites = [suite for suite in suites if not suite.gives_way] or suites
        if not self.gives_way and any(suite._settings != self._settings for suite in suites):
            raise MisconfigurationException(
                "`callbacks` holds TuningSuites with different arguments: "
                f"{[suite._settings for suite in suites]}; only one suite can watch a run."
            )
        self._is_retired = bool(suites) and suites[0] is not self
        if self._is_retired:
            self.members = []  # the same suite twice, as from a list of callbacks that was used before
            return
        own = [callback for callback in callbacks if not isinstance(callback, TuningSuite)]
        self.members = [m for m in self._recommended if not any(isinstance(callback, type(m)) for callback in own)]


def _tuple(patterns: Any) -> Any:
    """As a tuple, unless it is none of what it should be, which is refused elsewhere."""
    return tuple(patterns) if isinstance(patterns, list | tuple | set) else patterns
