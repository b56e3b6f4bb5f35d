"""What the values of parameters say in a few numbers, read from the device once for all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.functional import tensor_norms

__all__ = ["MeasuredWeights", "WeightFacts", "is_whole", "weight_facts"]

_CONSTANT = 2e-3
"""Standard deviation over rms below which float32 can't tell a constant from the rounding of its two sums."""


@dataclasses.dataclass(frozen=True)
class WeightFacts:
    """One parameter in numbers.

    Attributes:
        shape: its sizes.
        mean: of its elements.
        rms: their root mean square; NaN or infinite where an element is (or where the squares overflow).
        version: how often it was written in place since it was made.
        is_trainable: whether it requires a gradient.
    """

    shape: tuple[int, ...]
    mean: float
    rms: float
    version: int = 0
    is_trainable: bool = True

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def norm(self) -> float:
        """Its L2 norm."""
        return self.rms * math.sqrt(self.size)

    @property
    def std(self) -> float:
        """Standard deviation of its elements; 0 for a constant."""
        variance = self.rms**2 - self.mean**2
        return math.sqrt(variance) if variance > (_CONSTANT * self.rms) ** 2 else 0.0

    @property
    def is_zero(self) -> bool:
        """Nothing but zeros."""
        return self.rms == 0

    @property
    def is_constant(self) -> bool:
        """All elements are equal; never of a single one, nor of what is not finite."""
        return self.size > 1 and math.isfinite(self.rms) and self.std == 0


def is_whole(parameter: Tensor) -> bool:
    """Whether the values of ``parameter`` are here and all of it: not lazy, on the meta device, or sharded."""
    return (
        not is_lazy(parameter)
        and not parameter.is_meta
        and parameter.numel() > 0
        and (parameter.is_floating_point() or parameter.is_complex())
        and parameter.layout is torch.strided
        and not any(hasattr(parameter, mark) for mark in ("to_local", "ds_id", "_is_flat_param"))
    )


class MeasuredWeights:
    """The numbers of parameters on their device, not read yet, as they are at this moment.

    Args:
        parameters: by name; those that are lazy, sharded or of no floating type are left out.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        whole = {name: parameter for name, parameter in parameters.items() if is_whole(parameter)}
        tensors = [parameter.detach() for parameter in whole.values()]
        self._known = {name: (tuple(p.shape), p._version, p.requires_grad) for name, p in whole.items()}
        self._norms, self._sums = tensor_norms(tensors), _sums(tensors)

    def read(self) -> dict[str, WeightFacts]:
        """The facts of each parameter. A device sync."""
        numbers = zip(self._known.items(), self._norms.tolist(), self._sums.tolist(), strict=True)
        return {
            name: WeightFacts(
                shape=shape,
                mean=total / math.prod(shape),
                rms=norm / math.sqrt(math.prod(shape)),
                version=version,
                is_trainable=is_trainable,
            )
            for (name, (shape, version, is_trainable)), norm, total in numbers
        }


def weight_facts(parameters: Mapping[str, Tensor]) -> dict[str, WeightFacts]:
    """What :class:`MeasuredWeights` of ``parameters`` reads.

    Example:
        >>> facts = weight_facts({"scale": torch.full((4,), 2.0), "step": torch.tensor(3)})
        >>> list(facts), facts["scale"].rms, facts["scale"].is_constant
        (['scale'], 2.0, True)
    """
    return MeasuredWeights(parameters).read()


def _sums(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of each tensor; of complex ones that of the real parts."""
    if not tensors:
        return torch.zeros(0)
    real = [t.real if t.is_complex() else t for t in tensors]
    sums = [t.sum(dtype=torch.float64 if t.dtype is torch.float64 else torch.float32) for t in real]
    home = next((s.device for s in sums if s.device.type != "cpu"), sums[0].device)
    kind = torch.float64 if any(s.dtype is torch.float64 for s in sums) else torch.float32
    return torch.stack([s.to(home, kind, non_blocking=True) for s in sums])
