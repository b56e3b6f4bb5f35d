"""Residual branches that start switched off, and Fixup."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from lightning_tuning.functional.variance_scale import fixup_scale
from lightning_tuning.rules._residual_branches import ResidualBranch
from lightning_tuning.treatments._init_draw import Painter
from lightning_tuning.treatments._init_options import InitOptions
from lightning_tuning.treatments._init_survey import Target

__all__ = ["treat_branches"]

_LEFT = "its weights were left alone"


def treat_branches(
    painter: Painter,
    branches: Sequence[ResidualBranch],
    outputs: Sequence[str],
    filled: Mapping[str, Target],
    options: InitOptions,
) -> None:
    """Do what ``residual`` says, to weights that were initialised in this run alone, and say so in the report.

    Args:
        painter: writes to parameters and keeps the books.
        branches: as the trace shows them.
        outputs: names of the weights of the output layers.
        filled: weights that were initialised, by their names in the trace.
        options: what the user asked for.
    """
    mode, notes = options.residual, painter.report.notes
    if not branches:
        notes.append(f"residual {mode!r}: no residual branch was found in the first step, nothing was changed")
        return
    depth = sum(1 for branch in branches if not branch.obstacle.startswith("it holds other"))
    done: list[str] = []
    left: dict[str, list[str]] = defaultdict(list)
    scaled: set[str] = set()
    for branch in branches:
        obstacle = branch.obstacle or _obstacle(painter, branch, filled, options)
        if obstacle:
            left[obstacle].append(branch.where)
            continue
        if mode == "fixup":
            inner = [name for name in branch.layers if name != branch.switch and name not in scaled]
            scale = fixup_scale(depth, len(branch.layers))
            for name in inner:
                painter.scale(filled[name].name, scale, "fixup")
            scaled.update(inner)
        _switch_off(painter, branch.switch, filled.get(branch.switch))
        done.append(branch.switch)
    summary = f"residual {mode!r}: {len(done)} of {len(branches)} branches start switched off"
    notes.append(f"{summary}: {', '.join(done[:6])}{f' and {len(done) - 6} more' if len(done) > 6 else ''}")
    for obstacle, places in left.items():
        notes.append(f"residual {mode!r}: left, {obstacle}: {', '.join(dict.fromkeys(places))}")
    if mode == "fixup" and done:
        notes.append(f"residual 'fixup': {_zero_classifier(painter, outputs, filled)}; no scalar biases were added")


def _obstacle(painter: Painter, branch: ResidualBranch, filled: Mapping[str, Target], options: InitOptions) -> str:
    """Why this branch is not for us, beside what the trace says."""
    ours = [name in filled for name in branch.layers]
    if options.residual == "fixup":
        if branch.has_norm:
            return "it is normalized, and Fixup is for nets that are not (residual='zero' suits it)"
        return "" if all(ours) else _LEFT
    if not branch.is_norm:
        return "" if branch.switch in filled else _LEFT
    if not any(ours):
        return _LEFT
    name = painter.real_name(branch.switch)
    scale = painter.root.get_parameter(name)
    owner = painter.root.get_submodule(name.rpartition(".")[0])
    if not scale.requires_grad or not options.selection.takes(name, owner):
        return "the scale of its last norm is frozen or not included"
    return "" if bool((scale.detach() == 1).all()) else "the scale of its last norm was set"


def _switch_off(painter: Painter, switch: str, target: Target | None) -> None:
    if target is None:
        painter.zero_scale(painter.real_name(switch))
    else:
        painter.zero(target)


def _zero_classifier(painter: Painter, outputs: Sequence[str], filled: Mapping[str, Target]) -> str:
    if len(outputs) != 1:
        return f"the output layer was left ({len(outputs)} of them)"
    target = filled.get(outputs[0])
    if target is None:
        return f"the output layer was left ({outputs[0]}: {_LEFT})"
    with torch.no_grad():
        painter.zero(target)
    return f"the output layer starts at zero ({outputs[0]})"
