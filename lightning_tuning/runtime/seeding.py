"""Global generators seeded for one thing that has a name, and put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_tuning.functional.initialization import named_generator
from lightning_tuning.trace.rng import RngState

__all__ = ["seeded_for"]


@contextmanager
def seeded_for(name: str, seed: int, device: torch.device) -> Iterator[None]:
    """Global generators seeded for ``name``, then as they were: a user's function may draw from any of them.

    Args:
        name: of the parameter or layer that is filled.
        seed: of the run.
        device: where it lies; its generator is seeded beside those of the host.
    """
    state = RngState.capture()
    number = named_generator(seed, name).initial_seed()
    try:
        torch.default_generator.manual_seed(number)
        if device.type != "cpu":  # `torch.manual_seed` would also seed devices that are not in use yet, for good
            module: Any = torch.get_device_module(device)
            module.manual_seed(number)
        random.seed(number)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(number)
        yield
    finally:
        state.restore()
