"""LT320: a dropout or batch norm that is left in evaluation mode while the net around it trains."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import BATCH_NORMS, MASKS, attribute
from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT320", "eval_modes_in_training"]

LT320 = register(
    Rule(
        code="LT320",
        name="eval-mode-in-training",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "In evaluation mode a dropout drops nothing and a batch norm uses its running statistics without ever "
            "updating them: one that has none yet divides by 1. Lightning keeps the modes that it finds (since 2.2), "
            "so one `eval()` before fit lasts."
        ),
        remedy="`self.net.train()` before fit, or in `on_train_start`.",
        source="torch.nn.Module.eval; Lightning 2.2's release notes",
    )
)


def eval_modes_in_training(
    module: nn.Module, graph: Graph, optimized: Collection[int], *, declared: Collection[str] = ()
) -> list[Finding]:
    """One finding for each module that was put into evaluation mode by itself, and trains.

    - An error for a batch norm without statistics, and for a dropout while another one is active.
    - An error for the whole module, if a batch norm without statistics is in it: nobody means that.
    - An info for a whole submodule, or for every dropout there is: somebody may have meant it.
    - Nothing for a batch norm whose statistics came from elsewhere (frozen ones, detectors that train its affine
      parameters), for what no optimizer holds, what runs without grad, what does not reach the loss.

    Args:
        module: the whole one, after the forward pass. Reads statistics (a device sync).
        graph: of that pass.
        optimized: identities of what the optimizers hold.
        declared: names of modules that are in evaluation mode on purpose, with all in them.
    """
    resting: dict[str, list[Op]] = {}
    for op in graph.find(*BATCH_NORMS, *MASKS, feeding=True):
        if op.training or any(outer in declared for outer in _outwards(op.module)):
            continue
        if op.grad_enabled and _does_something(op):
            root = _root_of_eval(module, op.module)
            if root is not None:
                resting.setdefault(root, []).append(op)
    drops = any(op.training and op.arguments.get("training") and _does_something(op) for op in graph.find(*MASKS))
    findings = []
    for root, ops in resting.items():
        finding = _judge(module, root, ops, optimized, others_drop=drops)
        if finding is not None:
            findings.append(finding)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    return errors or findings[:1]


def _judge(
    module: nn.Module, root: str, ops: list[Op], optimized: Collection[int], *, others_drop: bool
) -> Finding | None:
    part = module.get_submodule(root)
    family = module.get_submodule(root.rpartition(".")[0]) if all(op.name in MASKS for op in ops) else part
    if not any(p.requires_grad and id(p) in optimized for p in family.parameters()):
        return None
    dropouts = [op for op in ops if op.name in MASKS]
    untouched = [op for op in ops if op.name in BATCH_NORMS and _has_no_statistics(module.get_submodule(op.module))]
    if not dropouts and not untouched:
        return None
    alone = next(part.children(), None) is None
    name = f"`{root}`" if root else "the whole module"
    kinds = " and ".join(
        [f"{_count(len(untouched), 'batch norm')} without statistics"] * bool(untouched)
        + [_count(len(dropouts), "dropout")] * bool(dropouts)
    )
    sure = (alone and bool(untouched or others_drop)) if root else bool(untouched)
    return LT320.finding(
        f"{name} is in evaluation mode while it trains ({kinds} in it)",
        where=root,
        source_line=ops[0].source_line,
        severity=None if sure else Severity.INFO,
        evidence={"batch_norms": len(untouched), "dropouts": len(dropouts)},
        remedy=f"`{attribute(root)}.train()` in `on_train_epoch_start`; and look for the `eval()` that is not undone.",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _does_something(op: Op) -> bool:
    return op.name in BATCH_NORMS or float(op.arguments.get("p", 0.0)) > 0


def _root_of_eval(module: nn.Module, path: str) -> str | None:
    """The outermost module around ``path`` below which everything on the way is in evaluation mode by now."""
    root = None
    for outer in _outwards(path):
        try:
            if module.get_submodule(outer).training:
                break
        except AttributeError:  # a name that a wrapper has changed
            return None
        root = outer
    return root


def _outwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _has_no_statistics(norm: nn.Module) -> bool:
    """Whether the running statistics are as they were made: mean 0, variance 1, of no batch."""
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if not isinstance(mean, torch.Tensor) or not isinstance(variance, torch.Tensor):
        return False
    return not bool(mean.any()) and bool((variance == 1).all())
