"""Who looks for a while: called until it has seen enough, at the hooks that are forwarded, in a fit only."""

from __future__ import annotations

from typing import Any, get_args

import lightning.pytorch as pl
import pytest

from lightning_tuning import Journal
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.watching import Hook, Watchers
from tests.helpers import Mlp, quiet_trainer


class Looking(TuningCallback):
    """Writes down each hook's first ``most`` calls."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[str] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            for hook in get_args(Hook):
                Desk.of(trainer).watch(hook, self._looker(hook))

    def _looker(self, hook: str) -> Any:
        calls = 0

        def look(trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> bool:
            nonlocal calls
            assert isinstance(trainer, pl.Trainer)
            assert isinstance(pl_module, Mlp)
            self.seen.append(hook)
            calls += 1
            return calls == self.most

        return look


@pytest.mark.parametrize("most", [1, 3])
def test_every_hook_is_shown_until_enough_is_seen(most: int) -> None:
    looking = Looking(most)
    quiet_trainer(callbacks=[looking], max_epochs=4).fit(Mlp())
    train_start, *others = get_args(Hook)
    assert {hook: looking.seen.count(hook) for hook in others} == dict.fromkeys(others, most)
    assert looking.seen.count(train_start) == 1


def test_a_second_fit_is_watched_anew_and_an_evaluation_is_not() -> None:
    looking = Looking(1)
    trainer, model = quiet_trainer(callbacks=[looking], num_sanity_val_steps=0), Mlp()
    trainer.validate(model, verbose=False)
    assert looking.seen == []
    for _ in range(2):
        trainer.fit(model)
        trainer.fit_loop.max_epochs += 1
    assert {looking.seen.count(hook) for hook in get_args(Hook)} == {2}


def test_what_is_asked_for_while_looking_is_shown_from_the_next_time_on() -> None:
    watchers, seen = Watchers(Journal()), []

    def first() -> bool:
        seen.append("first")
        watchers.add("train_start", lambda: seen.append("second"))
        return True

    watchers.add("train_start", first)
    for _ in range(3):
        watchers.show("train_start")
    assert seen == ["first", "second", "second"]


def test_a_hook_that_is_not_forwarded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`hook` must be one of .* got 'predict_start'"):
        Watchers(Journal()).add("predict_start", print)  # type: ignore[arg-type]
