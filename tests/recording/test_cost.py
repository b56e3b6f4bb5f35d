"""The stop-watch leaves nothing behind, and a hook that was measured for others is not called for long."""

from __future__ import annotations

import time
from typing import Any

import pytest
from lightning.pytorch import Callback

from lightning_tuning import GradientExplosionMonitor, TuningReport, UpdateMonitor
from lightning_tuning.recording._stopwatch import StopWatch
from lightning_tuning.runtime import Desk
from lightning_tuning.runtime.resting import IN_EACH_STEP, rest, wake
from tests.helpers import Mlp, quiet_trainer


class Busy(Callback):
    def on_before_backward(self, *_: Any) -> None:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass

    def on_train_batch_end(self, *_: Any) -> None:
        raise ValueError


def test_it_times_the_hooks_that_there_are() -> None:
    busy, watch = Busy(), StopWatch()
    watch.start([busy, Callback()])
    assert set(vars(busy)) == {"on_before_backward", "on_train_batch_end"}
    for _ in range(3):
        busy.on_before_backward()
    with pytest.raises(ValueError):  # noqa: PT011  # it comes through as it is
        busy.on_train_batch_end()
    assert watch.stop() >= 0.006
    assert vars(busy) == {}
    assert not watch.runs
    watch.start([busy])
    assert watch.stop() < 0.002


@pytest.mark.parametrize("wanted", [[], ["on_before_backward"], list(IN_EACH_STEP)], ids=str)
def test_what_is_put_to_rest_meanwhile_stays_so(wanted: list[str]) -> None:
    busy, twin, watch = Busy(), Busy(), StopWatch()
    wake(busy)
    watch.start([busy])
    rest(busy, wanted)
    watch.stop()
    rest(twin, wanted)
    assert vars(busy) == vars(twin)


def test_a_hook_of_the_instance_comes_back() -> None:
    busy, watch = Busy(), StopWatch()
    own = busy.__dict__["on_before_backward"] = lambda: None
    watch.start([busy])
    assert busy.on_before_backward is not own
    watch.stop()
    assert busy.on_before_backward is own


@pytest.mark.parametrize(("other", "asks"), [(GradientExplosionMonitor, False), (UpdateMonitor, True)])
def test_norms_are_asked_for_only_where_nobody_else_does(other: type[Callback], asks: bool) -> None:
    trainer = quiet_trainer(callbacks=[other(), TuningReport(None)], max_epochs=8, limit_val_batches=0)
    trainer.fit(Mlp())
    assert ("before_optimizer_step" in Desk.of(trainer)._watchers.hooks) is asks
