"""Parameter groups for an optimizer: a lower rate for what was trained before, rates by depth, decay for weights."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_tuning.functional.decay_groups import check_weight_decay, norm_parameters, trainable_parameters

__all__ = ["param_groups"]


def param_groups(
    module: nn.Module,
    lr: float,
    *,
    backbone: str | Sequence[str] | None = None,
    backbone_lr_ratio: float = 0.1,
    layer_decay: float | None = None,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = ("bias", "norm"),
) -> list[dict[str, Any]]:
    """The trainable parameters of ``module`` in groups for an optimizer, each with a rate, a decay and a ``"name"``.

    **Discriminative rates**: what ``backbone`` names learns at ``lr * backbone_lr_ratio``, the rest at ``lr``.

    **Rates by depth**: a parameter at depth ``d`` of ``L`` learns at ``lr * layer_decay ** (L - d)``, so that layers
    near the input, which are the most general ones, move the least. Depth is read off the names, in the order in which
    modules were registered, which has to be that of the forward pass:

    - A *block* is what the first number in a name counts: ``encoder.layers.3`` of ``encoder.layers.3.mlp.weight``. A
      module without any number in its names has its layers for blocks.
    - Depth 0: whatever comes before the first block (patches, positions, tokens), and every ``nn.Embedding``.
    - Depth 1, 2, ...: the blocks, counted through all stacks (``layer1.0``, ``layer1.1``, ``layer2.0``, ...). What
      stands between two blocks belongs to the one before it.
    - The last depth, which has the full rate: whatever comes after the last block (final norm, head); without
      such, the last block itself.

    With both, depth is counted inside the backbone, whose last layer has ``lr * backbone_lr_ratio``.

    Frozen parameters are left out, tied ones appear once, under their first name. Any other is in one group.

    Args:
        module: whose parameters to group; a LightningModule with its metrics too.
        lr: of the head, in the optimizer's own unit. No default: it belongs to the optimizer.
        backbone: globs on names of modules or parameters (``"encoder"``, ``"model.layer[12]"``), one or several.
            Default ``None``: there is none.
        backbone_lr_ratio: rate of the backbone / rate of the rest, above 0. Default .1, the usual one of fine-tuning.
        layer_decay: rate of a layer / rate of the next, in (0, 1]. Default ``None``: one rate. ELECTRA takes .8 for
            12 layers and .9 for 24, BEiT .65 and .75 (with 12 and 24 layers, on images).
        weight_decay: of everything that decays, in the optimizer's own unit. Default 0: nothing decays.
        no_decay: what does not. ``"bias"``: whatever is called so, and everything of fewer than two dimensions (scales,
            temperatures). ``"norm"``: parameters of normalization layers, torch's and others' (``LlamaRMSNorm``). Any
            other string is a glob as in ``backbone``: ``"*.relative_position_bias_table"``. Default: those two.

    Returns:
        groups in the order of the parameters, for the first argument of an optimizer. Their ``"name"``, unique as
        ``LearningRateMonitor`` wants it, tells what is in them: ``"backbone depth 3, no decay"``.

    Raises:
        ValueError: for numbers outside of what is said above; a pattern that matches nothing, with names that are near
            it; and a lazy parameter, whose shape is not known before a first batch.

    Example:
        >>> blocks = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        >>> net = nn.ModuleDict({"tokens": nn.Embedding(10, 8), "blocks": blocks, "head": nn.Linear(8, 2)})
        >>> for group in param_groups(net, lr=1e-3, layer_decay=0.5, weight_decay=0.05):
        ...     print(f"{group['name']}: {group['lr']:g}, {group['weight_decay']}, {len(group['params'])}")
        depth 0: 0.000125, 0.05, 1
        depth 1: 0.00025, 0.05, 1
        depth 1, no decay: 0.00025, 0.0, 1
        depth 2: 0.0005, 0.05, 1
        depth 2, no decay: 0.0005, 0.0, 1
        depth 3: 0.001, 0.05, 1
        depth 3, no decay: 0.001, 0.0, 1

    Source:
        Howard and Ruder 2018, ULMFiT, section 3.2 (discriminative rates); Clark et al. 2020, ELECTRA, appendix A, and
        Bao et al. 2022, BEiT, appendix (rates by depth); He et al. 2019, Bag of Tricks, section 3.1 (decay).
    """
    _check_numbers(lr, backbone_lr_ratio, layer_decay)
    check_weight_decay(weight_decay)
    trainable = trainable_parameters(module)
    known = [_clean(name) for name, _ in module.named_parameters(remove_duplicate=False)]
    in_backbone = _matching("backbone", _globs(backbone), known, trainable)
    scoped = in_backbone if backbone is not None else set(trainable)
    depths = _depths(module, [name for name in trainable if name in scoped]) if layer_decay is not None else {}
    last = max(depths.values(), default=0)
    exempt = _exempt(module, trainable, known, no_decay) if weight_decay else set()

    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in trainable.items():
        rate, place = lr, [] if backbone is None else ["backbone" if name in in_backbone else "head"]
        if name in in_backbone:
            rate *= backbone_lr_ratio
        if name in depths and layer_decay is not None:
            rate *= layer_decay ** (last - depths[name])
            place.append(f"depth {depths[name]}")
        title = " ".join(place) or "all"
        if name in exempt:
            title += ", no decay"
        decay = 0.0 if name in exempt else weight_decay
        group = groups.setdefault(title, {"name": title, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def _check_numbers(lr: float, backbone_lr_ratio: float, layer_decay: float | None) -> None:
    for name, value in (("lr", lr), ("backbone_lr_ratio", backbone_lr_ratio)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a finite number above 0, got {value!r}.")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay` must be above 0 and at most 1, or None, got {layer_decay!r}.")


def _exempt(
    module: nn.Module, trainable: dict[str, nn.Parameter], known: Sequence[str], no_decay: Sequence[str]
) -> set[str]:
    """Names of what does not decay."""
    words = _globs(no_decay)
    exempt = _matching("no_decay", [word for word in words if word not in ("bias", "norm")], known, trainable)
    of_norms = norm_parameters(module) if "norm" in words else set()
    for name, parameter in trainable.items():
        is_bias = parameter.dim() < 2 or name.rpartition(".")[2].startswith("bias")
        if id(parameter) in of_norms or ("bias" in words and is_bias):
            exempt.add(name)
    return exempt


def _globs(patterns: str | Sequence[str] | None) -> list[str]:
    return [] if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)


def _matching(argument: str, patterns: Iterable[str], known: Sequence[str], trainable: Iterable[str]) -> set[str]:
    """Those of ``trainable`` that a pattern matches, or in a module that one matches.

    Raises:
        ValueError: for a pattern that matches nothing, frozen parameters and second names of tied ones included.
    """
    trainable = list(trainable)
    found: set[str] = set()
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in known):
            places = list(dict.fromkeys(place for name in known for place in _places(name)))
            near = difflib.get_close_matches(pattern.strip("*."), places, n=4, cutoff=0.5) or places[:8]
            raise ValueError(
                f"`{argument}` must match names of modules or parameters, got {pattern!r}; "
                f"{'near it' if near != places[:8] else 'there'}: {', '.join(near) or 'none'}."
            )
        found.update(name for name in trainable if _matches(pattern, _clean(name)))
    return found


def _matches(pattern: str, name: str) -> bool:
    return any(fnmatchcase(place, pattern) for place in _places(name))


def _places(name: str) -> Iterator[str]:
    """``a``, ``a.b`` and ``a.b.weight`` of ``a.b.weight``."""
    return itertools.accumulate(name.split("."), lambda whole, part: f"{whole}.{part}")


def _clean(name: str) -> str:
    return name.replace("_orig_mod.", "")  # what `torch.compile` puts in between


def _depths(module: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The depth of each parameter, as :func:`param_groups` tells it."""
    embeddings = {
        id(parameter) for part in module.modules() if isinstance(part, nn.Embedding) for parameter in part.parameters()
    }
    is_embedding = {name for name in names if id(module.get_parameter(name)) in embeddings}
    blocks = {name: _block(name) for name in names if name not in is_embedding}
    if not any(blocks.values()):
        blocks = {name: name.rpartition(".")[0] for name in blocks}
    order = {block: place for place, block in enumerate(dict.fromkeys(filter(None, blocks.values())), start=1)}
    in_blocks = [place for place, name in enumerate(names) if blocks.get(name)]
    depths: dict[str, int] = {}
    before = 0
    for place, name in enumerate(names):
        if name in is_embedding:
            depths[name] = 0
        elif block := blocks[name]:
            depths[name] = before = order[block]
        else:
            depths[name] = before if in_blocks and place < in_blocks[-1] else len(order) + 1
    return depths


def _block(name: str) -> str:
    """The part of ``name`` up to its first number; nothing if there is none."""
    parts = name.split(".")
    numbered = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return "" if numbered is None else ".".join(parts[: numbered + 1])
