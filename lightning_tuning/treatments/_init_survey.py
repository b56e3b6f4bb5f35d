"""Which parameters of a module may be initialised, and why the others are left alone."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_tuning.functional._layers import NORMALIZATIONS, WeightSlot, bias_bound, bias_names, weight_slots
from lightning_tuning.runtime.fresh_weights import is_set_bias, is_set_weight
from lightning_tuning.treatments._init_memory import Memory
from lightning_tuning.treatments._init_scheme import Choice, is_exact, matches

__all__ = ["HANDLED", "SET", "Selection", "Target", "survey"]

UNKNOWN_LAYER = "used by no layer of a known type"


@dataclasses.dataclass(frozen=True)
class Target:
    """A parameter that is to be initialised.

    Attributes:
        name: dotted, as in ``named_parameters``.
        module: that owns it.
        slot: what it is in a layer of a known type; ``None`` for a parameter that the user's own code applies.
        choice: what ``scheme`` says for it; not ``None``.
        biases: dotted names of the biases that go with it.
        set_biases: of the layer's other biases, those that are left alone because somebody has set them.
    """

    name: str
    module: nn.Module
    slot: WeightSlot | None
    choice: Choice
    biases: tuple[str, ...] = ()
    set_biases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Selection:
    """What the user asked for; see ``WeightInitCallback``."""

    schemes: Sequence[tuple[type[nn.Module] | str, Choice]]
    include: Sequence[str] | None
    exclude: Sequence[str]
    overwrite: bool

    @property
    def wants_batch(self) -> bool:
        """Whether some layer may have to be seen at work first."""
        return any(choice in ("auto", "lsuv") for _, choice in self.schemes)

    def takes(self, name: str, module: nn.Module) -> bool:
        """Whether ``include`` and ``exclude`` leave this parameter to us."""
        included = self.include is None or any(matches(glob, name, module) for glob in self.include)
        return included and not any(matches(glob, name, module) for glob in self.exclude)


def survey(root: nn.Module, selection: Selection, memory: Memory) -> tuple[list[Target], dict[str, str]]:
    """What to initialise in ``root``, and the reason for every other parameter of two dimensions or more.

    Changes nothing. Reads values (a device sync each, where they are on an accelerator already).

    Args:
        root: the LightningModule.
        selection: what the user asked for.
        memory: of ``root``.

    Raises:
        MisconfigurationException: for a pattern that matches nothing, and for a weight that is to be initialised but
            has no values here yet (lazy, on the meta device) or no longer as a whole (sharded).
    """
    _check_patterns(root, selection)
    owners = _owners(root)
    names: dict[Any, list[str]] = defaultdict(list)
    for name, parameter in root.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    targets, kept = [], {}
    for parameter, (name, *aliases) in names.items():
        module, attribute = owners[name]
        if is_lazy(parameter):
            if parameter.requires_grad and selection.takes(name, module):
                raise MisconfigurationException(_LAZY.format(name=name))
            continue
        if parameter.dim() < 2:
            continue
        slot = next((slot for slot in weight_slots(module) if slot.name == attribute), None)
        choice, reason = _choose(name, module, slot, selection)
        reason = reason or _reason_to_keep(parameter, aliases) or (HANDLED if name in memory.handled else "")
        if not reason and slot is not None:
            may_be_set = selection.overwrite or memory.knows_fresh(name, parameter)
            reason = _reason_in_values(parameter, slot, may_be_set=may_be_set)
        elif not reason and choice in ("auto", "lsuv") and not selection.overwrite:
            reason = _OWN
        if reason:
            kept[name] = reason
            continue
        prefix = name.removesuffix(attribute)
        biases: list[str] = []
        set_biases: list[str] = []
        for bias in bias_names(module) if slot is not None else ():
            values = module.get_parameter(bias)
            if values.requires_grad and len(names[values]) == 1 and selection.takes(prefix + bias, module):
                may_be_set = selection.overwrite or memory.knows_fresh(prefix + bias, values)
                is_somebodys = not may_be_set and is_set_bias(values, bias_bound(module))
                (set_biases if is_somebodys else biases).append(prefix + bias)
        targets.append(Target(name, module, slot, choice, tuple(biases), tuple(set_biases)))
    return targets, kept


_LAZY = (
    "WeightInitCallback cannot initialize {name!r}: a lazy module has no weights before its first batch. Run a batch of"
    " the right shape through it in `configure_model` or in the module's `__init__`, or exclude it."
)
HANDLED = "initialized earlier, or loaded from a checkpoint"
SET = "set since its layer was built, by hand or from a file (`overwrite=True` initializes it too)"
_OWN = f"{UNKNOWN_LAYER} (`overwrite=True` initializes it where the first step applies it as a weight)"


def _owners(root: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    return {
        f"{path}.{attribute}" if path else attribute: (module, attribute)
        for path, module in root.named_modules(remove_duplicate=False)
        for attribute in module._parameters
    }


def _choose(name: str, module: nn.Module, slot: WeightSlot | None, selection: Selection) -> tuple[Choice, str]:
    """What ``scheme`` says for a parameter, or else why it says nothing."""
    if not selection.takes(name, module):
        return None, "excluded" if selection.include is None else "not included"
    key, choice = next((pair for pair in selection.schemes if matches(pair[0], name, module)), ("", None))
    if choice is None:
        return None, "no entry of `scheme` matches" if key == "" else "`scheme` says None"
    if slot is not None or (callable(choice) and is_exact(key)):
        return choice, ""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return None, "embedding"
    if isinstance(module, NORMALIZATIONS):
        return None, "normalization"
    if _is_reparametrized(name, module):
        return None, "another tensor is computed from it (weight norm, spectral norm or another parametrization)"
    if choice in ("auto", "lsuv"):  # the trace may show how it is applied
        return choice, ""
    return None, UNKNOWN_LAYER


def _reason_to_keep(parameter: Tensor, aliases: list[str]) -> str:
    """Why this parameter must not be touched, whatever ``scheme`` says; empty if nothing speaks against it."""
    if not parameter.requires_grad:
        return "frozen"
    if aliases:
        return f"tied to {', '.join(aliases)}"
    if not parameter.is_floating_point():
        return f"its type is {parameter.dtype}"
    if parameter.numel() == 0 and not hasattr(parameter, "ds_id"):
        return "empty"
    if (
        parameter.is_meta
        or hasattr(parameter, "to_local")
        or hasattr(parameter, "ds_id")
        or hasattr(parameter, "_is_flat_param")
    ):
        raise MisconfigurationException(
            "WeightInitCallback cannot initialize weights that are on the meta device or sharded when `configure_model`"
            f" returns, got {type(parameter).__name__} on {parameter.device}. Initialize them in the module itself."
        )
    return ""


def _reason_in_values(weight: Tensor, slot: WeightSlot, *, may_be_set: bool) -> str:
    """Whether the values of ``weight`` are somebody's work."""
    if bool((weight.detach() == 0).all()):
        return "all zero: a branch that starts switched off"
    return SET if not may_be_set and is_set_weight(weight, slot.default_bound) else ""


def _is_reparametrized(name: str, module: nn.Module) -> bool:
    # `parametrize` keeps originals in `<layer>.parametrizations`, the older functions in `weight_v`, `weight_orig`.
    return ".parametrizations." in f".{name}" or (
        name.endswith(("_v", "_g", "_orig")) and bool(module._forward_pre_hooks)
    )


def _check_patterns(root: nn.Module, selection: Selection) -> None:
    """A misspelt pattern would leave alone what was meant, or worse, not leave alone what was meant to be."""
    owners = _owners(root)
    for argument, key in _patterns(selection):
        if (
            isinstance(key, str)
            and not hasattr(nn, key)
            and not any(matches(key, n, m) for n, (m, _) in owners.items())
        ):
            raise MisconfigurationException(
                f"`{argument}` has {key!r}, which matches no parameter, layer or layer type of {type(root).__name__};"
                f" its parameters are {', '.join(list(owners)[:8])}{', ...' if len(owners) > 8 else ''}."
            )


def _patterns(selection: Selection) -> Iterator[tuple[str, Any]]:
    yield from (("scheme", key) for key, _ in selection.schemes if key != "*")
    yield from (("include", glob) for glob in selection.include or ())
    yield from (("exclude", glob) for glob in selection.exclude)
