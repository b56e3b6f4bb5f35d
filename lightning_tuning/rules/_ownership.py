"""Who owns a parameter, who optimizes it, and whether a gradient reaches it: what identities alone can tell."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from torch import nn

from lightning_tuning.rules._optimizers import ParameterGroup, parameter_groups, parameter_names

__all__ = ["Hidden", "Ownership", "hidden_parameters"]

_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, Mapping)
_LOOKED_AT = (nn.Module, *_CONTAINERS, nn.Parameter)
_PASSED_BY = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Most of what containers hold; asking whether it is a mapping or a parameter takes longer than all the rest."""
_ITEMS = 2_000
"""In one container, nested ones counted: a data set of token lists is no place to look for parameters."""


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A parameter that a module keeps where torch does not look.

    Attributes:
        container: dotted path of the attribute, ``"net.layers"``.
        path: of the parameter itself, ``"net.layers[0].weight"``.
        parameter: the tensor.
        kind: what would register it, ``"ModuleList"``.
    """

    container: str
    path: str
    parameter: nn.Parameter
    kind: str


@dataclasses.dataclass(frozen=True)
class Ownership:
    """The parameters of a module, of its hidden containers and of the optimizers, around one optimizer step.

    Attributes:
        module: the whole one.
        optimizers: all of the run.
        graded: identities of the tensors that had a gradient.
        rewritten: identities of the tensors that somebody wrote into during the step, optimizers included.
    """

    module: nn.Module
    optimizers: Sequence[Any]
    graded: Collection[int]
    rewritten: Collection[int] = frozenset()

    @cached_property
    def names(self) -> Mapping[int, str]:
        """Dotted name by identity, of what the module owns."""
        return parameter_names(self.module)

    @cached_property
    def groups(self) -> list[ParameterGroup]:
        """Of all optimizers."""
        return parameter_groups(self.optimizers, self.names)

    @cached_property
    def held(self) -> Mapping[int, str]:
        """The group (``"AdamW group 0"``) of each tensor that an optimizer holds, by identity."""
        return {id(parameter): group.where for group in self.groups for _, parameter in group.parameters}

    @cached_property
    def hidden(self) -> list[Hidden]:
        """See :func:`hidden_parameters`."""
        return list(hidden_parameters(self.module))

    @cached_property
    def left_out(self) -> dict[str, nn.Parameter]:
        """By name, what gets a gradient but is moved by nobody: no optimizer, and no code of the user's."""
        return {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
            and id(parameter) in self.graded
            and id(parameter) not in self.held
            and id(parameter) not in self.rewritten
        }

    @cached_property
    def held_names(self) -> set[str]:
        """Names of the module's parameters that an optimizer holds."""
        return {name for identity, name in self.names.items() if identity in self.held}


def hidden_parameters(module: nn.Module) -> Iterator[Hidden]:
    """Parameters in lists, dicts, tuples and sets (nested too) of any module, themselves or in modules there.

    What is registered as well, under whatever name, is not hidden; nor is a module in evaluation mode, which somebody
    hid on purpose: ``train()`` of the whole does not reach it, so nothing else would have put it there.
    """
    registered = {id(parameter) for parameter in module.parameters()}
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for attribute, value in vars(owner).items():
            if attribute in _OWN_ATTRIBUTES or not isinstance(value, _CONTAINERS):
                continue
            container = f"{path}.{attribute}" if path else attribute
            for place, parameter, kind in _inside(value, container):
                if id(parameter) not in registered and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield Hidden(container, place, parameter, kind)


def _inside(container: Any, path: str) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Path, tensor and what would register it, of every parameter within, nearest first."""
    within = "Dict" if isinstance(container, Mapping) else "List"
    queue: deque[tuple[str, Any]] = deque([(path, container)])
    budget = _ITEMS
    entered: set[int] = set()
    while queue:
        place, value = queue.popleft()
        if id(value) in entered:  # a container in itself, or twice
            continue
        entered.add(id(value))
        if isinstance(value, nn.Parameter):
            yield place, value, f"Parameter{within}"
        elif isinstance(value, nn.Module):
            if value.training:
                for name, parameter in value.named_parameters():
                    yield f"{place}.{name}", parameter, f"Module{within}"
        elif isinstance(value, _CONTAINERS):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            known = [
                (f"{place}[{key!r}]", item)
                for key, item in islice(items, budget)
                if type(item) not in _PASSED_BY and isinstance(item, _LOOKED_AT)
            ]
            budget -= min(len(value), budget)
            queue.extend(known)
