"""LT903: a checkpoint of weights that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT903", "non_finite_checkpoint"]

LT903 = register(
    Rule(
        code="LT903",
        name="non-finite-checkpoint",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A checkpoint of NaN weights is worth nothing, and ModelCheckpoint deletes the last good one for it: with "
            "`save_top_k=1` or `save_last=True` one save after the accident and the whole run is gone."
        ),
        remedy="start again, with a lower learning rate or clipped gradients.",
        source=(
            "Lightning's ModelCheckpoint, which replaces a monitored NaN by inf and saves, and removes the file before "
            "it after every save"
        ),
    )
)

_SHOWN = 3


def non_finite_checkpoint(
    names: Sequence[str], *, path: str = "", kept: str = "", step: int = 0, is_resumable: bool = True
) -> Finding:
    """LT903, for a checkpoint that was about to be written.

    Args:
        names: of the tensors in it that are not finite, at least one.
        path: where it would have been.
        kept: the last good one, if there is one.
        step: ``trainer.global_step``.
        is_resumable: a run can go on from ``kept``; of a file of weights alone it cannot.

    Raises:
        ValueError: if ``names`` is empty.

    Example:
        >>> non_finite_checkpoint(["net.0.weight"], path="runs/step=12.ckpt", kept="runs/step=9.ckpt").message
        'net.0.weight is not finite: step=12.ckpt was not written, step=9.ckpt stays'
    """
    if not names:
        raise ValueError("`names` must name at least one tensor, got none.")
    more = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    what = f"{PurePath(path).name or 'a checkpoint'} was not written"
    if kept:
        what += f", {PurePath(kept).name} stays"
    evidence: dict[str, float | int | str] = {"tensors": len(names), "step": step}
    evidence |= {key: value for key, value in (("path", path), ("kept", kept)) if value}
    return LT903.finding(
        f"{listed} {'is' if len(names) == 1 else 'are'} not finite: {what}",
        where=names[0],
        evidence=evidence,
        remedy=(
            f"go on from `ckpt_path={kept!r}`, with a lower learning rate or clipped gradients."
            if kept and is_resumable
            else None
        ),
    )
