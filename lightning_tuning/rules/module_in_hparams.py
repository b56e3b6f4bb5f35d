"""LT902: a module among the hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT902", "modules_in_hparams"]

LT902 = register(
    Rule(
        code="LT902",
        name="module-in-hparams",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Hyperparameters are pickled whole into every checkpoint: a module among them doubles its weights there, "
            "ties the file to the class's source, and cannot be read with `torch.load(weights_only=True)`."
        ),
        remedy='`self.save_hyperparameters(ignore=["backbone"])`; the module is saved as a part of the model anyway.',
        source="Lightning's `save_hyperparameters`; torch 2.6's `weights_only=True` by default.",
    )
)

_DEEPEST = 4


def modules_in_hparams(hparams: Any, owner: str) -> Iterator[Finding]:
    """LT902 for every module in ``hparams``, at any depth of its dicts and lists.

    A warning where the module has weights; an info where it has none (a loss, an activation): the file is then as
    large as without, and merely harder to read.

    Args:
        hparams: what ``save_hyperparameters`` collected; ``None`` if nothing.
        owner: class whose they are.

    Example:
        >>> [finding.where for finding in modules_in_hparams({"lr": 0.1, "net": {"head": nn.Linear(2, 2)}}, "Net")]
        ['hparams.net.head']
    """
    seen: set[int] = set()
    for path, module in _modules(hparams, "hparams", _DEEPEST):
        if id(module) in seen:
            continue
        seen.add(id(module))
        weights = sum(p.numel() for p in module.parameters() if not isinstance(p, nn.UninitializedParameter))
        name = path.partition(".")[2].partition(".")[0]
        yield LT902.finding(
            f"{owner}.{path} is a {type(module).__name__} with {weights} weights, pickled into every checkpoint",
            where=path,
            severity=None if weights else Severity.INFO,
            evidence={"module": type(module).__name__, "weights": weights, "owner": owner},
            remedy=f"`self.save_hyperparameters(ignore=[{name!r}])` in `{owner}.__init__`.",
        )


def _modules(value: Any, path: str, depth: int) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield path, value
    elif depth and isinstance(value, Mapping):
        for key, item in list(value.items()):
            yield from _modules(item, f"{path}.{key}", depth - 1)
    elif depth and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, item in enumerate(value[:100]):
            yield from _modules(item, f"{path}.{index}", depth - 1)
