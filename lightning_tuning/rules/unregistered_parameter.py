"""LT403: a parameter in a plain list or dict, where torch does not find it."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import elements
from lightning_tuning.rules._ownership import Hidden, Ownership

__all__ = ["LT403", "unregistered_parameters"]

LT403 = register(
    Rule(
        code="LT403",
        name="unregistered-parameter",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A module finds parameters and submodules only in its own attributes: what lies in a plain list, dict or "
            "tuple is not in `parameters()`, so no optimizer moves it, no checkpoint holds it and `.to()` leaves it "
            "behind."
        ),
        remedy="`self.layers = nn.ModuleList(layers)` (or `ModuleDict`, `ParameterList`, `ParameterDict`).",
        source="torch.nn.Module's documentation of parameters(); nn.ModuleList",
    )
)


def unregistered_parameters(
    owned: Ownership, *, saves_itself: bool = False, lines: Mapping[tuple[int, ...], str] | None = None
) -> list[Finding]:
    """One finding for each container that hides parameters which a gradient reaches.

    Without gradient (a teacher, an average of the weights, something unused) nothing is lost. One that an optimizer was
    handed explicitly does train: a warning, that no checkpoint has it.

    Args:
        owned: after the backward pass of one optimizer step.
        saves_itself: the module has checkpoint code of its own, so that nothing can be said of what is saved.
        lines: source line of the first operation on a parameter that no module owns, by its shape.
    """
    containers: dict[str, list[Hidden]] = {}
    for hidden in owned.hidden:
        if hidden.parameter.requires_grad and id(hidden.parameter) in owned.graded:
            containers.setdefault(hidden.container, []).append(hidden)
    findings = []
    for container, members in containers.items():
        held = [hidden for hidden in members if id(hidden.parameter) in owned.held]
        lost = [hidden for hidden in members if hidden not in held and id(hidden.parameter) not in owned.rewritten]
        if not lost and (saves_itself or not held):
            continue
        concerned = lost or held
        first = concerned[0]
        count = f"{len(concerned)} parameters" if len(concerned) > 1 else "a parameter"
        harm = "no optimizer holds it" if lost else "an optimizer holds it, but no checkpoint will"
        attribute = container.rpartition(".")[2]
        findings.append(
            LT403.finding(
                f"`{container}` hides {count} that a gradient reaches, such as `{first.path}`: {harm}",
                where=container,
                severity=None if lost else Severity.WARNING,
                source_line=(lines or {}).get(tuple(first.parameter.shape)),
                evidence={
                    "parameters": len(concerned),
                    "elements": sum(elements(hidden.parameter) for hidden in concerned),
                    "first": first.path,
                },
                remedy=f"`self.{attribute} = nn.{first.kind}(...)`.",
            )
        )
    return findings
