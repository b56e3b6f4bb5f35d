"""LT401: a parameter that gets gradients which nobody uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import elements, listing
from lightning_tuning.rules._ownership import Ownership

__all__ = ["LT401", "parameters_not_optimised"]

LT401 = register(
    Rule(
        code="LT401",
        name="parameter-not-optimised",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A parameter that no optimizer holds keeps its random initial value for good, and its gradients are "
            "computed, summed up and thrown away at every step."
        ),
        remedy=(
            "`torch.optim.AdamW(self.parameters(), lr=...)`; where it is meant to stay: "
            "`parameter.requires_grad_(False)`."
        ),
        source="Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems",
    )
)


def parameters_not_optimised(owned: Ownership, *, explained: Collection[str] = ()) -> list[Finding]:
    """At most one error, of parameters whose siblings are optimized, and one info, of whole submodules left out.

    Siblings are what lies in the module that owns the parameter. Where most of that module (by elements) is left out,
    as by a recipe that trains adapters, biases or the head of a model alone, nobody forgot a parameter: that is an info
    too. (Where it is just half, as in a layer norm, the module around tells.) Quiet where the optimizers hold nothing
    of the module at all: they work on copies then.

    Args:
        owned: after the backward pass of one optimizer step.
        explained: names that another rule speaks of.
    """
    left = {name: p for name, p in owned.left_out.items() if name not in explained}
    if not left or not owned.held_names:
        return []
    moved = _sums({name: p for name, p in owned.module.named_parameters() if name in owned.held_names})
    lost = _sums(left)
    forgotten: list[str] = []
    parts: dict[str, int] = {}
    for name, parameter in left.items():
        around = _around(name)
        telling = next((path for path in reversed(around) if moved.get(path, 0) != lost[path]), "")
        if around[-1] in moved and moved.get(telling, 0) > lost[telling]:
            forgotten.append(name)
        else:
            part = next((path for path in around if path not in moved), name)
            parts[part] = parts.get(part, 0) + elements(parameter)
    findings = []
    if forgotten:
        findings.append(
            LT401.finding(
                f"{listing(forgotten)}: in no optimizer, though gradients arrive and the rest of the module is in one",
                where=forgotten[0],
                evidence={"parameters": len(forgotten), "elements": sum(elements(left[name]) for name in forgotten)},
            )
        )
    if parts:
        largest = sorted(parts, key=lambda part: -parts[part])
        findings.append(
            LT401.finding(
                f"{listing(largest)} ({sum(parts.values())} elements): in no optimizer, though gradients arrive",
                where=largest[0],
                severity=Severity.INFO,
                evidence={"modules": len(parts), "elements": sum(parts.values())},
                remedy="if it is meant to stay as it is: `module.requires_grad_(False)` saves its backward pass.",
            )
        )
    return findings


def _sums(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """Elements by the path of every module around the parameters; ``""`` is the whole."""
    sums: dict[str, int] = {}
    for name, parameter in parameters.items():
        for path in _around(name):
            sums[path] = sums.get(path, 0) + elements(parameter)
    return sums


def _around(name: str) -> list[str]:
    """The paths of the modules around a parameter, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))]
