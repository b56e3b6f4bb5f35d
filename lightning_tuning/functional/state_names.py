"""Names in a state dict without the wrappers that ``torch.compile`` and data parallelism put around a module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["likely_prefix", "name_cleaner"]

_COMPILED = "_orig_mod"


def name_cleaner(module: nn.Module) -> Callable[[str], str]:
    """A function from names in ``module.state_dict()`` to those that the module would have without wrappers.

    ``_orig_mod`` of ``torch.compile`` goes wherever it stands, ``module`` where a ``DistributedDataParallel`` or
    ``DataParallel`` stands before it, and not where somebody just called a layer so.

    Example:
        >>> net = nn.Sequential(nn.DataParallel(nn.Linear(2, 2)), nn.ModuleDict({"module": nn.Linear(2, 2)}))
        >>> [name_cleaner(net)(name) for name in net.state_dict()]
        ['0.weight', '0.bias', '1.module.weight', '1.module.bias']
    """
    wrapped = {
        f"{path}.module".lstrip(".")
        for path, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, DataParallel | DistributedDataParallel)
    }

    def clean(name: str) -> str:
        if not wrapped and _COMPILED not in name:
            return name
        kept, path = [], ""
        for part in name.split("."):
            path = f"{path}.{part}" if path else part
            if part != _COMPILED and path not in wrapped:
                kept.append(part)
        return ".".join(kept)

    return clean


def likely_prefix(longer: Iterable[str], shorter: Collection[str]) -> tuple[str, int]:
    """The prefix in front of most names of ``longer`` that are in ``shorter`` without it, and of how many it is.

    Example:
        >>> likely_prefix(["net.0.weight", "net.0.bias", "loss.weight"], ["0.weight", "0.bias"])
        ('net.', 2)
    """
    found: Counter[str] = Counter()
    for name in longer:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in shorter:
                found[".".join(parts[:cut]) + "."] += 1
    return max(found.items(), key=lambda pair: pair[1], default=("", 0))
