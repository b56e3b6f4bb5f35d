"""Which parameters a user's globs mean."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning.functional.decay_groups import norm_parameters
from lightning_tuning.measure import plain_name

__all__ = ["means", "picked_parameters"]


def means(pattern: str, parameter: str, module: nn.Module) -> bool:
    """Whether ``pattern`` means the parameter of this dotted name, which ``module`` owns.

    A glob on its name, on that of a module that contains it, or on the class name of its owner.

    Example:
        >>> linear = nn.Linear(1, 1)
        >>> [means(pattern, "net.0.weight", linear) for pattern in ("*weight", "net", "net.0", "Linear", "head")]
        [True, True, True, True, False]
    """
    parts = parameter.split(".")
    paths = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return any(fnmatch.fnmatchcase(name, pattern) for name in (type(module).__name__, *paths))


def picked_parameters(
    who: str, module: nn.Module, include: Sequence[str], exclude: Sequence[str] | None
) -> dict[str, nn.Parameter]:
    """The trainable parameters of ``module`` that ``include`` means and ``exclude`` does not, by their dotted names.

    Args:
        who: the callback that asks, for its message.
        module: a LightningModule; tied parameters come once.
        include: patterns, see :func:`means`.
        exclude: likewise; ``None`` for biases (whatever is called so, of recurrent and attention layers too) and
            normalization layers, see :func:`~lightning_tuning.functional.split_decay_groups`.

    Raises:
        MisconfigurationException: for a pattern that matches nothing, or if no parameter is left.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
        >>> list(picked_parameters("Penalty", net, ["*"], None))
        ['0.weight', '2.weight']
    """
    owned = list(_owned(module))
    for argument, patterns in (("include", include), ("exclude", exclude or ())):
        for pattern in patterns:
            if not any(means(pattern, name, owner) for name, owner, _ in owned):
                raise MisconfigurationException(f"{who}: `{argument}` {pattern!r} matches no parameter of this module.")
    picked: dict[str, nn.Parameter] = {}
    of_norms = norm_parameters(module)
    for name, owner, parameter in owned:
        if exclude is None:
            is_excluded = "bias" in name.rpartition(".")[2] or id(parameter) in of_norms
        else:
            is_excluded = any(means(pattern, name, owner) for pattern in exclude)
        if parameter.requires_grad and not is_excluded and any(means(pattern, name, owner) for pattern in include):
            picked[name] = parameter
    if not picked:
        raise MisconfigurationException(f"{who}: `include` and `exclude` leave no trainable parameter of this module.")
    return picked


def _owned(module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    seen: set[int] = set()
    for path, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield plain_name(f"{path}.{name}" if path else name), child, parameter
