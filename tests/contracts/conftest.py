"""Nothing may be left behind: no function mode of torch, no hook put on a module."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

PUT_ON_MODULES = frozenset({"configure_optimizers", "configure_model", "training_step", "log", "manual_backward"})


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules: list[pl.LightningModule] = []
    build = pl.LightningModule.__init__

    @functools.wraps(build)
    def remember(self: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        modules.append(self)

    monkeypatch.setattr(pl.LightningModule, "__init__", remember)
    yield
    assert torch._C._len_torch_function_stack() == 0
    for module in modules:
        assert not PUT_ON_MODULES & vars(module).keys(), type(module).__name__
