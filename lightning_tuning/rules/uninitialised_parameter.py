"""LT204: a parameter that holds whatever was in that memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._weight_facts import WeightFacts, is_whole

__all__ = ["LT204", "Contents", "contents", "uninitialised_parameter"]

LT204 = register(
    Rule(
        code="LT204",
        name="uninitialised-parameter",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "`torch.empty`, `torch.Tensor(n)` and `torch.FloatTensor(n)` hand out memory as it is: zeros on one "
            "machine, NaN, 1e34 or pieces of addresses on another, so the run breaks by chance."
        ),
        remedy="fill it: `nn.init.xavier_uniform_(weight)`, or `nn.Parameter(torch.zeros(n))` for a bias.",
        source="Documentation of torch.empty; half of an address, read as float32, is a subnormal number like 4.6e-41",
    )
)

_LARGEST = 1e4
_FEWEST_SUBNORMAL = 2
_TINY = torch.finfo(torch.float32).tiny
_AT_A_TIME = 1 << 20
"""Elements of small parameters that are copied together for a look."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What makes the values of one parameter suspicious.

    Attributes:
        size: elements.
        not_finite: how many are NaN or infinite.
        largest: absolute value of the largest finite one.
        smallest: likewise, of the smallest that is not 0.
        subnormal: how many are below the least normal float32 (whatever the parameter's own type: a quarter of a
            percent of a float16 N(0, .02) is subnormal in float16), and not 0.
        is_written: somebody has written into it since its memory was taken.
    """

    size: int
    not_finite: int = 0
    largest: float = 0.0
    smallest: float = 0.0
    subnormal: int = 0
    is_written: bool = False


def contents(parameters: Mapping[str, Tensor], facts: Mapping[str, WeightFacts]) -> dict[str, Contents]:
    """The contents of the parameters that are worth a look: never written, or of a large or no finite norm.

    Reads back whether they hold anything unusual (a device sync), and of those that may, what (one each).

    Args:
        parameters: by name; frozen ones are left out.
        facts: taken before the first update; the norms bound the largest elements.

    Example:
        >>> from lightning_tuning.rules._weight_facts import weight_facts
        >>> memory = {"w": torch.nn.Parameter(torch.tensor([1e-41, 3e-41, 1.0]))}
        >>> contents(memory, weight_facts(memory))["w"].subnormal
        2
    """
    looked_at = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.requires_grad and is_whole(parameter) and name in facts and not parameter.is_complex()
        if not (facts[name].version > 0 and facts[name].norm <= _LARGEST)
    }
    found = {}
    for name in _odd(looked_at):
        parameter, is_written = parameters[name], facts[name].version > 0
        values = parameter.detach().abs()
        finite = values.isfinite()
        nonzero = finite & (values > 0)
        inf = math.inf
        numbers = [
            (~finite).sum().float(),
            torch.where(finite, values, 0).amax().float(),
            torch.where(nonzero, values, inf).amin().float(),
            (nonzero & (values < _TINY)).sum().float(),
        ]
        bad, largest, smallest, subnormal = torch.stack(numbers).tolist()
        found[name] = Contents(parameter.numel(), int(bad), largest, smallest, int(subnormal), is_written)
    return found


def _odd(parameters: Mapping[str, Tensor]) -> list[str]:
    """Those in whose company something is not finite, very large or subnormal; most nets have none of it.

    Small parameters are looked at many at a time, with one read for all of them: one by one costs more than a step.
    """
    groups: dict[tuple[torch.device, torch.dtype, int], list[str]] = {}
    elements = 0
    for name, parameter in parameters.items():
        elements += parameter.numel()
        groups.setdefault((parameter.device, parameter.dtype, elements // _AT_A_TIME), []).append(name)
    flags = []
    for names in groups.values():
        values = torch.cat([parameters[name].detach().reshape(-1) for name in names]).abs()
        usual = (values == 0) | ((values >= _TINY) & (values <= _LARGEST))  # false for NaN
        flags.append((~usual).any())
    home = next((flag.device for flag in flags if flag.device.type != "cpu"), None)
    is_odd = torch.stack([flag.to(home) for flag in flags]).tolist() if flags else []
    return [name for names, odd in zip(groups.values(), is_odd, strict=True) if odd for name in names]


def uninitialised_parameter(name: str, values: Contents, *, is_trained: bool = False) -> Finding | None:
    """LT204 for values that nobody can have meant.

    Subnormal numbers count only where nothing was ever written: weight decay leaves them in trained weights. A large
    number counts only beside others of another size: a physical constant of 2e5 may be a parameter.

    Args:
        name: dotted name of the parameter.
        values: what is in it.
        is_trained: the weights of the run were trained before; then only what was never written is judged.

    Example:
        >>> uninitialised_parameter("w", Contents(size=8, not_finite=2)).message
        '2 of 8 elements are NaN or infinite before the first update'
        >>> uninitialised_parameter("w", Contents(size=8, largest=3.0, smallest=0.1))
    """
    if values.is_written and is_trained:
        return None
    is_huge = values.largest > _LARGEST and values.largest > _LARGEST * values.smallest
    is_address = not values.is_written and not is_trained and values.subnormal >= _FEWEST_SUBNORMAL
    if values.not_finite:
        message = f"{values.not_finite} of {values.size} elements are NaN or infinite before the first update"
    elif is_huge:
        reach = f"{values.smallest:.2g} to {values.largest:.2g}"
        message = f"its elements reach from {reach} > {_LARGEST:g} before the first update"
    elif is_address:
        message = (
            f"{values.subnormal} of {values.size} elements are subnormal (down to {values.smallest:.2g}): memory that "
            "nobody has filled"
        )
    else:
        return None
    return LT204.finding(
        message,
        where=name,
        evidence={
            "size": values.size,
            "not_finite": values.not_finite,
            "largest": values.largest,
            "smallest": values.smallest,
            "subnormal": values.subnormal,
        },
    )
