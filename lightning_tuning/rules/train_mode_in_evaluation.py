"""LT321: a dropout or batch norm that is in training mode while the net is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import BATCH_NORMS, MASKS
from lightning_tuning.trace.graph import Graph

__all__ = ["LT321", "modes_of_interest", "train_modes_in_evaluation"]

LT321 = register(
    Rule(
        code="LT321",
        name="train-mode-in-evaluation",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "In training mode a dropout makes every score a matter of chance, and a batch norm judges each sample by "
            "the others in its batch and takes the validation data into its running statistics."
        ),
        remedy=(
            "take `self.train()` out of the validation hooks: Lightning sets the modes and restores them; for Monte "
            "Carlo dropout: `TrainEvalModeCheck(allow=['*dropout*'])`."
        ),
        source="torch.nn.Module.train; Lightning's evaluation loop",
    )
)


def modes_of_interest(module: nn.Module, graph: Graph | None) -> dict[str, str]:
    """By path, the modules whose mode decides what they compute: ``"dropout"`` or ``"batch norm"``.

    Those of torch, and those that ran such an operation in the training step, if one was seen.
    """
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats:
            found[path] = "batch norm"
        elif isinstance(part, _DropoutNd) and part.p > 0:
            found[path] = "dropout"
    names = {path for path, _ in module.named_modules()}
    for op in [] if graph is None else graph.find(*BATCH_NORMS, *MASKS, feeding=True):
        depends = bool(op.arguments.get("training")) and (op.name in BATCH_NORMS or float(op.arguments.get("p", 0)) > 0)
        if depends and op.module in names:
            found.setdefault(op.module, "batch norm" if op.name in BATCH_NORMS else "dropout")
    return found


def train_modes_in_evaluation(module: nn.Module, parts: Mapping[str, str]) -> Finding | None:
    """One finding for all of ``parts`` that are in training mode now, in the middle of an evaluation of ``module``.

    An info where only dropouts are, each put there by itself in a net that is evaluated, as Monte Carlo dropout does.
    """
    training = {path: kind for path, kind in parts.items() if module.get_submodule(path).training}
    if not training:
        return None
    first = next((path for path, kind in training.items() if kind == "batch norm"), next(iter(training)))
    by_themselves = all(
        isinstance(module.get_submodule(path), _DropoutNd)
        and not module.get_submodule(path.rpartition(".")[0]).training
        for path in training
    )
    numbers = {kind: [*training.values()].count(kind) for kind in ("batch norm", "dropout")}
    counts = [f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in numbers.items() if number]
    return LT321.finding(
        f"{' and '.join(counts)} in training mode during validation, `{first}` first",
        where=first,
        severity=Severity.INFO if by_themselves else None,
        evidence={"modules": len(training), "first": first, "kind": training[first]},
    )
