"""The recommended set of checks, monitors and guards as one callback."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
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
from lightning_tuning.runtime.resting import leave_out_empty_hooks
from lightning_tuning.runtime.sparing import nothing_more_raised

__all__ = ["TuningSuite"]

_OWN = ("on_save_checkpoint", "on_load_checkpoint", "on_exception")
_FORWARDED = tuple(name for name in vars(Callback) if name.startswith("on_") and name not in _OWN)


def recommended() -> list[TuningCallback]:
    """Fresh instances of the recommended set, in the order in which they are called."""
    return [
        DataCheck(),
        TargetCheck(),
        InitCheck(),
        DropoutBNConflictWarning(severity="info"),
        DropoutCheck(),
        BatchNormCheck(),
        LossHeadCheck(),
        GradientFlowCheck(),
        TrainEvalModeCheck(),
        OptimizerCheck(),
        ScheduleCheck(),
        RunCheck(),
        GradientExplosionMonitor(),
        RateMonitor(),
        PenaltyMonitor(),
        GradientVanishingMonitor(),
        UpdateMonitor(),
        ClippingMonitor(),
        ActivationMonitor(),
        StaleGradientMonitor(),
        LearningCurveMonitor(),
        OverfittingMonitor(),
        VarianceShiftMonitor(),
        NanLossGuard(),
        ReplicaDriftGuard(),
    ]


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

    Attributes:
        members: the callbacks that the suite calls.

    Raises:
        ValueError: for an unknown ``on_finding``, code or prefix.
        MisconfigurationException: at the start of a run, if a second suite with other arguments is attached to the
            trainer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> suite = TuningSuite(ignore=["LT301"])
        >>> trainer = Trainer(callbacks=[suite], logger=False, accelerator="cpu")
        >>> suite.findings  # readable during and after fit
        []
    """

    def __init__(
        self,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        on_finding: OnFinding = "warn",
    ) -> None:
        Journal(select, ignore, on_finding)  # the one place that knows what is allowed
        self._settings: dict[str, Any] = {
            "select": None if select is None else tuple(select),
            "ignore": tuple(ignore or ()),
            "on_finding": on_finding,
        }
        self._recommended = recommended()
        self._journal: Journal | None = None
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
        self._journal.configure(**self._settings)
        for member in self.members:
            member.setup(trainer, pl_module, stage)
        self._forward(self.members, trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector of Lightning's

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
        if self._journal is not None:
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
        state = {name: value for name, value in self.__dict__.items() if name not in _FORWARDED}
        return {**state, "_journal": None}

    def _refuse_or_retire(self, trainer: Trainer) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
        suites = [callback for callback in callbacks if isinstance(callback, TuningSuite)]
        if any(suite._settings != self._settings for suite in suites):
            raise MisconfigurationException(
                "`callbacks` holds TuningSuites with different arguments: "
                f"{[suite._settings for suite in suites]}; only one suite can watch a run."
            )
        if suites and suites[0] is not self:
            self.members = []  # the same suite twice, as from a list of callbacks that was used before
            return
        own = [callback for callback in callbacks if not isinstance(callback, TuningSuite)]
        self.members = [m for m in self._recommended if not any(isinstance(callback, type(m)) for callback in own)]

    def _forward(self, members: Iterable[TuningCallback], callbacks: Sequence[Callback]) -> None:
        for hook in _FORWARDED:
            self.__dict__.pop(hook, None)
            overriding = [m for m in members if getattr(type(m), hook) is not getattr(Callback, hook)]
            if overriding:
                # On the instance, since Lightning asks it: hooks that no member overrides stay Lightning's own empty
                # ones.
                hooks = [getattr(member, hook) for member in overriding]
                self.__dict__[hook] = hooks[0] if len(hooks) == 1 else functools.partial(_call, hooks)
        leave_out_empty_hooks(self, callbacks)


def _call(hooks: list[Any], *args: Any, **kwargs: Any) -> None:
    for hook in hooks:
        hook(*args, **kwargs)
