"""Who looks at a run from time to time, and how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from lightning_tuning.findings import Journal
from lightning_tuning.runtime.sparing import Sparing

__all__ = ["Hook", "Watcher", "Watchers"]

Hook = Literal[
    "train_start",
    "train_batch_start",
    "before_backward",
    "after_backward",
    "before_optimizer_step",
    "train_batch_end",
    "train_epoch_end",
    "validation_batch_start",
    "validation_epoch_end",
]
"""Where one may look: names of Lightning's hooks without their ``on_``; no other hook is forwarded."""

Watcher = Callable[..., bool | None]
"""Is given the hook's arguments; true means that it has seen enough."""


class Watchers:
    """Functions by hook, each called until it has seen enough, or has failed.

    Args:
        journal: is told of failures; see :class:`Sparing`.

    Example:
        >>> watchers = Watchers(Journal())
        >>> watchers.add("train_start", lambda word: print(word) or word == "stop")
        >>> for word in ("go", "stop", "never heard"):
        ...     _ = watchers.show("train_start", word)
        go
        stop
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._by_hook: dict[Hook, list[Watcher]] = {hook: [] for hook in get_args(Hook)}

    def add(self, hook: Hook, look: Watcher) -> None:
        """Have ``look`` called at every ``hook`` from now on.

        Raises:
            ValueError: for a hook that is not forwarded.
        """
        if hook not in self._by_hook:
            raise ValueError(f"`hook` must be one of {get_args(Hook)}, got {hook!r}.")
        self._by_hook[hook].append(look)

    @property
    def hooks(self) -> list[Hook]:
        """Where somebody looks."""
        return [hook for hook, watchers in self._by_hook.items() if watchers]

    def show(self, hook: Hook, *arguments: Any) -> bool:
        """The hook was reached; true if somebody has seen enough there."""
        watchers = self._by_hook[hook]
        if not watchers:
            return False
        self._by_hook[hook] = []  # whoever looks may ask to look again
        left = [look for look in watchers if not self._is_done(look, arguments)]
        self._by_hook[hook][:0] = left
        return len(left) < len(watchers)

    def _is_done(self, look: Watcher, arguments: tuple[Any, ...]) -> bool:
        enough: bool | None = None
        with Sparing(self._journal, look) as sparing:
            enough = look(*arguments)
        return bool(enough) or sparing.failed
