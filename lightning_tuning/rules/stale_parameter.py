"""LT404: an optimizer that holds what the module has thrown away."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import elements, listing
from lightning_tuning.rules._ownership import Ownership

__all__ = ["LT404", "stale_parameters", "successors"]

LT404 = register(
    Rule(
        code="LT404",
        name="stale-parameter",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "An optimizer keeps the tensors that it was given: when a module is replaced after `configure_optimizers`, "
            "the old weights are moved on and the new ones stay as they are."
        ),
        remedy=(
            "replace modules in `__init__`, `setup` or `configure_model`; later than that: "
            "`optimizer.add_param_group({'params': self.head.parameters()})`."
        ),
        source="Lightning calls configure_optimizers after configure_model and before on_fit_start",
    )
)


def successors(owned: Ownership) -> dict[str, str]:
    """The group that holds what the module once had in its place, by the name of a parameter that nobody moves.

    A tensor in an optimizer that no module owns or hides and that gets no gradient is stale if the module has one to
    show for it: of its type, left out, with a gradient, and of its shape or (a head for other classes) of its shape but
    for one dimension. Parameters of a loss or of anything else outside the module get gradients of their own.
    """
    known = {*owned.names, *(id(hidden.parameter) for hidden in owned.hidden)}
    stale = [
        (group.where, p)
        for group in owned.groups
        for _, p in group.parameters
        if id(p) not in known and id(p) not in owned.graded and not is_lazy(p)
    ]
    waiting = dict(owned.left_out)
    found: dict[str, str] = {}
    for alike in (_same, _nearly_same):
        for where, tensor in list(stale):
            name = next((name for name, parameter in waiting.items() if alike(tensor, parameter)), None)
            if name is not None:
                found[name] = where
                del waiting[name]
                stale = [(group, other) for group, other in stale if other is not tensor]
    modules = {name.rpartition(".")[0]: where for name, where in found.items()}
    for name in waiting:  # the rest of a module that was replaced
        if name.rpartition(".")[0] in modules:
            found[name] = modules[name.rpartition(".")[0]]
    return found


def stale_parameters(owned: Ownership, found: Mapping[str, str] | None = None) -> list[Finding]:
    """One finding for all of :func:`successors` (``found``, if they are known already)."""
    found = successors(owned) if found is None else found
    if not found:
        return []
    names = [name for name in owned.left_out if name in found]
    where = names[0].rpartition(".")[0] or names[0]
    return [
        LT404.finding(
            f"{found[names[0]]} holds tensors that no module owns any more, and no optimizer holds {listing(names)} in "
            "their place",
            where=where,
            evidence={
                "parameters": len(names),
                "elements": sum(elements(owned.left_out[name]) for name in names),
                "group": found[names[0]],
            },
        )
    ]


def _same(old: Tensor, new: Tensor) -> bool:
    return old.dtype == new.dtype and old.shape == new.shape


def _nearly_same(old: Tensor, new: Tensor) -> bool:
    if old.dtype != new.dtype or old.dim() != new.dim() or old.dim() < 2:
        return False
    return sum(a != b for a, b in zip(old.shape, new.shape, strict=True)) == 1
