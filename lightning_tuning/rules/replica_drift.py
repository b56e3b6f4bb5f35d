"""LT905: the replicas of a model are no longer the same model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT905", "replica_drift"]

LT905 = register(
    Rule(
        code="LT905",
        name="replica-drift",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "Under DDP every rank makes the same update to the same weights, and nothing sends weights again after the "
            "first step. Once they differ, each gradient is a mean over different models, and only rank 0's is saved. "
            "Usual causes: a rank that skipped an update on its own, weights initialized after `setup`, parameters "
            "unfrozen after DDP was built (it does not reduce their gradients), random changes to weights."
        ),
        remedy=(
            "decide on reduced numbers only, so that every rank does the same; initialize in `configure_model`; build "
            "DDP with everything trainable that will be. To go on: restart from the last checkpoint, which makes all "
            "ranks alike."
        ),
        source="PyTorch DDP's design note (Li et al. 2020, section 3.2): replicas stay equal by equal updates alone",
    )
)

_SHOWN = 8


def replica_drift(
    names: Sequence[str],
    fingerprints: Sequence[Sequence[int]],
    *,
    when: str = "",
    norms: Sequence[Sequence[float]] = (),
) -> Finding | None:
    """LT905 if a parameter is not the same, bit for bit, on all ranks.

    Args:
        names: of the parameters, the same on every rank.
        fingerprints: for each rank one number per parameter.
        when: ends the sentence: ``"after step 500"``.
        norms: for each rank the norm of each parameter, to show how far they are apart.

    Example:
        >>> found = replica_drift(["w", "b"], [[7, 1], [7, 2]], when="after step 500", norms=[[1.0, 4.25], [1.0, 4.5]])
        >>> found.message
        '1 of 2 parameters, b first, differs between ranks after step 500: on rank 1 from rank 0 (norms 4.5 and 4.25)'
        >>> replica_drift(["w", "b"], [[7, 1], [7, 1]])
    """
    columns = [[own[i] for own in fingerprints] for i in range(len(names))]
    different = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    if not different:
        return None
    first = different[0]
    column = columns[first]
    usual = max(Counter(column).items(), key=lambda item: (item[1], item[0] == column[0]))[0]
    odd = [rank for rank, own in enumerate(column) if own != usual]
    one = column.index(usual)
    listed = ", ".join(map(str, odd[:_SHOWN])) + (", ..." if len(odd) > _SHOWN else "")
    message = (
        f"{len(different)} of {len(names)} parameters, {names[first]} first, "
        f"differ{'s' if len(different) == 1 else ''} between ranks{f' {when}' if when else ''}: on rank"
        f"{'' if len(odd) == 1 else 's'} {listed} from rank {one}"
    )
    evidence: dict[str, float | int | str] = {
        "parameters": len(different),
        "ranks": ", ".join(map(str, odd)),
        "world": len(fingerprints),
    }
    if norms:
        evidence |= {"norm": norms[odd[0]][first], "norm_elsewhere": norms[one][first]}
        message += f" (norms {norms[odd[0]][first]:.6g} and {norms[one][first]:.6g})"
    return LT905.finding(message, where=names[first], evidence=evidence)
