"""Why a gradient was lost, in terms of the operation whose gradient it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning_tuning.trace._origin import Origin

__all__ = ["discarded", "of_gradient"]

_NORMS = ("NormBackward", "LinalgVectorNormBackward", "CdistBackward", "PdistBackward", "HypotBackward")
_SPECTRAL = ("LinalgEighBackward", "LinalgEigBackward", "LinalgSvdBackward")
_MATRIX = ("LinalgSlogdet", "LinalgDet", "LinalgQr", "LinalgInv", "LinalgSolve", "LinalgLu", "LinalgCholesky", "Logdet")
_INVERSE = ("AcosBackward", "AsinBackward", "AcoshBackward", "AtanhBackward", "ErfinvBackward")


def discarded(origin: Origin) -> Origin:
    """The same place, said as the branch of a ``where`` (or a mask) that the loss did not use."""
    if origin.cause == "where-branch":
        return origin
    return replace(origin, kind="backward", cause="where-branch", detail=_in_a_branch(origin.detail))


def of_gradient(node: Any, cause: str, detail: str, *, unused: bool) -> tuple[str, str]:
    """Cause and detail for a gradient.

    Args:
        node: the autograd node in which it was lost.
        cause: of the operation that ran there, by itself.
        detail: of the same.
        unused: the gradient that came into the node was 0 there.
    """
    name = node.name().rpartition("::")[2]
    forward = name.partition("Backward")[0].lower()
    if unused:
        return "where-branch", _in_a_branch(f"gradient of {forward}: {detail}")
    if name.startswith("SqrtBackward"):
        before = node.next_functions[0][0]
        reduced = before is not None and before.name().startswith(("SumBackward", "MeanBackward"))
        return "norm-at-zero" if reduced else "sqrt-at-zero", "sqrt'(0) is infinite"
    if name.startswith(_NORMS):
        return "norm-at-zero", f"the gradient of {forward.removeprefix('linalgvector')} at 0 does not exist"
    if name.startswith(_SPECTRAL) and cause == "division-by-zero":
        what = "equal or zero singular values" if "svd" in forward else "equal eigenvalues"
        return "repeated-eigenvalues", f"the gradient of {forward.removeprefix('linalg')} at {what}: {detail}"
    if name.startswith(_MATRIX):
        return (
            "singular-matrix",
            f"the gradient of {forward.removeprefix('linalg')} where the matrix is singular: {detail}",
        )
    if name.startswith("PowBackward"):
        cause = "pow-domain"
    elif name.startswith(_INVERSE):
        cause = "trig-domain"
    return cause, f"gradient of {forward}: {detail}"


def _in_a_branch(detail: str) -> str:
    return f"0 * inf: {detail}, in a branch that the loss does not use"
