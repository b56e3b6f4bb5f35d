"""LT402: a parameter that is moved twice by one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, listing
from lightning_tuning.rules._ownership import Ownership

__all__ = ["LT402", "optimised_by_two", "optimised_twice_by_one"]

LT402 = register(
    Rule(
        code="LT402",
        name="parameter-optimised-twice",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "What stands twice in an optimizer is moved twice at every step, with one momentum for both; what stands "
            "in two optimizers is also pulled by the loss that was meant for the other network."
        ),
        remedy=(
            "one optimizer, each parameter once: `list(dict.fromkeys(parameters))` for tied weights, "
            "`Adam(self.generator.parameters())` and `Adam(self.discriminator.parameters())` for a GAN."
        ),
        source="torch issue 40967; Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems",
    )
)


def optimised_twice_by_one(groups: Sequence[ParameterGroup]) -> list[Finding]:
    """One finding for each optimizer that holds a tensor more than once, in one group or in two."""
    findings = []
    for index in dict.fromkeys(group.optimizer for group in groups):
        own = [group for group in groups if group.optimizer == index]
        counts = Counter(id(parameter) for group in own for _, parameter in group.parameters)
        twice: dict[str, ParameterGroup] = {}
        for group in own:
            for name, parameter in group.parameters:
                if counts[id(parameter)] > 1:
                    twice[name] = group  # the last group it stands in
        if twice:
            group = next(iter(twice.values()))
            findings.append(
                LT402.finding(
                    f"{listing(list(twice))} stands {max(counts.values())} times in the optimizer",
                    where=group.where,
                    evidence={"parameters": len(twice), "times": max(counts.values())},
                )
            )
    return findings


def optimised_by_two(owned: Ownership, steps: Iterable[tuple[int, frozenset[int]]]) -> list[Finding]:
    """A finding for each pair of optimizers that both moved a parameter in one batch.

    An error where these two alone stepped, each once, and one of them holds all that the other one holds, as if it had
    been given ``self.parameters()``. Else an info: networks that share an encoder, each with its own optimizer, do it
    on purpose; so do inner and outer loops, which step different numbers of times, and a third optimizer for a loss of
    all networks (InfoGAN).

    Args:
        owned: after the batch.
        steps: of the batch, in order: index of the optimizer, identities of its parameters that had a gradient.
    """
    taken: dict[int, list[frozenset[int]]] = {}
    for optimizer, moved in steps:
        taken.setdefault(optimizer, []).append(moved)
    held = {i: {id(p) for g in owned.groups if g.optimizer == i for _, p in g.parameters} for i in taken}
    titles = {group.optimizer: group.where.rpartition(" group ")[0] for group in owned.groups}
    findings: list[Finding] = []
    pairs = [(one, other) for one in sorted(taken) for other in sorted(taken) if one < other]
    for one, other in pairs:
        both = frozenset().union(*taken[one]) & frozenset().union(*taken[other])
        if not both or owned.optimizers[one] is owned.optimizers[other]:
            continue
        names = sorted(owned.names.get(identity, "?") for identity in both)
        once = len(taken) == 2 and len(taken[one]) == len(taken[other]) == 1
        careless = once and (held[one] >= held[other] or held[one] <= held[other])
        findings.append(
            LT402.finding(
                f"{listing(names)} is moved by {titles[one]} and by {titles[other]} in the same batch",
                where=f"{titles[one]}, {titles[other]}",
                severity=None if careless else Severity.INFO,
                evidence={"parameters": len(both), "first": titles[one], "second": titles[other]},
            )
        )
    return findings
