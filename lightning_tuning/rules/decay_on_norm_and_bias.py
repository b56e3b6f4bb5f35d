"""LT406: weight decay on what has no weight to decay."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, by_optimizer

__all__ = ["LT406", "decay_on_norms_and_biases"]

LT406 = register(
    Rule(
        code="LT406",
        name="decay-on-norm-and-bias",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Decay pulls towards 0, where a norm's scale switches its channel off and a bias has nothing to overfit "
            "with; ImageNet recipes gain some tenths of a percent by decaying weights alone."
        ),
        remedy=(
            "`from lightning_tuning.functional import split_decay_groups; "
            "AdamW(split_decay_groups(self, weight_decay=0.05), lr=...)`; with rates by layer, `param_groups`."
        ),
        source="He et al. 2019, Bag of Tricks for Image Classification, section 3.1; Jia et al. 2018, section 3.2",
    )
)

WORTH_SAYING = 0.1


def decay_on_norms_and_biases(
    groups: Sequence[ParameterGroup], steps: float, of_norms: Collection[str] = ()
) -> list[Finding]:
    """One finding for each optimizer that takes more than :data:`WORTH_SAYING` off a norm scale or bias over the run.

    ``1 - exp(-lr * weight_decay * steps)``, the part that goes where no gradient holds it; so AdamW's default of .01
    with lr 1e-3 is mentioned only in runs of more than 10 000 steps. Optimizers of unknown families (LARS leaves these
    parameters out by itself) are left alone.

    Args:
        groups: of the optimizers.
        steps: of the whole run; inf if nobody knows.
        of_norms: names of the parameters that normalizations read, whatever their shape.
    """
    findings = []
    for own in by_optimizer(groups):
        worst, group, names = 0.0, own[0], 0
        for candidate in own:
            count = sum(_is_no_weight(name, p, of_norms) for name, p in candidate.parameters)
            shrink = candidate.peak_lr * candidate.number("weight_decay")
            if candidate.family in ("adam", "sgd") and count and shrink > 0:
                names += count
                if shrink > worst:
                    worst, group = shrink, candidate
        if worst <= 0 or not steps > 0:
            continue
        part = 1 - math.exp(-worst * steps)
        if part > WORTH_SAYING:
            decay = group.number("weight_decay")
            findings.append(
                LT406.finding(
                    f"weight_decay={decay:g} takes {part:.0%} off {names} norm scales, shifts and biases over the run "
                    "where no gradient holds them",
                    where=group.where,
                    evidence={"weight_decay": decay, "parameters": names, "part": part, "threshold": WORTH_SAYING},
                )
            )
    return findings


def _is_no_weight(name: str, parameter: Tensor, of_norms: Collection[str]) -> bool:
    return parameter.requires_grad and (name in of_norms or (not is_lazy(parameter) and parameter.dim() < 2))
