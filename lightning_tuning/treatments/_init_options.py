"""The arguments of WeightInitCallback beside `scheme`, checked."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from lightning_tuning.functional._numbers import is_number
from lightning_tuning.functional.initialization import Distribution
from lightning_tuning.treatments._init_survey import Selection

__all__ = ["HeadBias", "InitOptions", "Residual"]

Residual = Literal["keep", "zero", "fixup"]
HeadBias = Literal["keep", "prior"]


@dataclasses.dataclass(frozen=True)
class InitOptions:
    """What the user asked for; see ``WeightInitCallback``.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """

    selection: Selection
    distribution: Distribution = "normal"
    bias: float | None = 0.0
    forget_bias: float | None = 1.0
    residual: Residual = "keep"
    head_bias: HeadBias = "keep"
    prior_batches: int = 20
    lsuv_tol: float = 0.1
    seed: int | None = None

    def __post_init__(self) -> None:
        words = (("distribution", Distribution), ("residual", Residual), ("head_bias", HeadBias))
        for argument, allowed in words:
            if (value := getattr(self, argument)) not in get_args(allowed):
                raise ValueError(f"`{argument}` must be one of {get_args(allowed)}, got {value!r}.")
        for argument, value in (("bias", self.bias), ("forget_bias", self.forget_bias)):
            if value is not None and not is_number(value):
                raise ValueError(f"`{argument}` must be a number or None, got {value!r}.")
        if self.seed is not None and not _is_integer(self.seed):
            raise ValueError(f"`seed` must be an integer or None, got {self.seed!r}.")
        if not (_is_integer(self.prior_batches) and self.prior_batches > 0):
            raise ValueError(f"`prior_batches` must be an integer of at least 1, got {self.prior_batches!r}.")
        if not (is_number(self.lsuv_tol) and self.lsuv_tol > 0):
            raise ValueError(f"`lsuv_tol` must be positive and finite, got {self.lsuv_tol!r}.")
        if self.residual == "fixup" and any(choice == "lsuv" for _, choice in self.selection.schemes):
            raise ValueError(
                "`residual` must be 'keep' or 'zero' with scheme 'lsuv', got 'fixup': LSUV undoes its scaling."
            )

    @property
    def wants_look(self) -> bool:
        """Every weight has to wait for the first step, whatever its scheme."""
        return self.residual != "keep" or self.head_bias != "keep"

    @property
    def wants_batch(self) -> bool:
        """Some weight may have to wait for the first step."""
        return self.wants_look or self.selection.wants_batch

    def batch_wish(self) -> str:
        """The argument that has to see a batch, as one writes it."""
        if self.residual != "keep":
            return f"residual={self.residual!r}"
        if self.head_bias != "keep":
            return f"head_bias={self.head_bias!r}"
        return "scheme='lsuv'" if any(choice == "lsuv" for _, choice in self.selection.schemes) else "scheme='auto'"


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
