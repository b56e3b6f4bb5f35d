"""Looks at the hidden activations of single steps, and adds up what it saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_tuning.measure import plain_name
from lightning_tuning.measure.activations import attention_rows, attention_scores, saturation, silent_units
from lightning_tuning.measure.unit_counts import NUMBERS, UnitCounts
from lightning_tuning.rules._activation_layers import EXACT, ActivationLayer
from lightning_tuning.trace import Graph
from lightning_tuning.trace.lookout import Lookout, Site

__all__ = ["ActivationWatch", "sites_of"]

_NOBODY = -1

Sites = dict[Site, list[int]]
"""Of each site the operations of the traced step that stood there, in order: indices of their layers."""


def sites_of(graph: Graph, layers: Sequence[ActivationLayer]) -> Sites:
    """Where the activations of ``layers`` stand; what else stands there belongs to nobody."""
    layer_of = {op: index for index, layer in enumerate(layers) for op in layer.ops}
    wanted = {Site.of(graph.ops[op]) for op in layer_of}
    sites: Sites = defaultdict(list)
    for op in graph.ops:
        if op.grad_enabled and Site.of(op) in wanted:
            sites[Site.of(op)].append(layer_of.get(op.index, _NOBODY))
    return dict(sites)


class ActivationWatch:
    """Between :meth:`start` and :meth:`finish` it sees one step.

    A layer that is passed several times in a step (time steps of a loop, two views of a sample) counts once: silent is
    what was silent in all of them. Where several layers stand on one line and the step passes it another number of
    times than the traced one did, nobody knows which is which, and the line is left out.

    Args:
        pl_module: whose steps they are.
        layers: what to look at, the same on every rank.
        sites: where they stand; see :func:`sites_of`.
        several: ranks add up what they saw.
    """

    def __init__(
        self, pl_module: LightningModule, layers: Sequence[ActivationLayer], sites: Sites, *, several: bool = False
    ) -> None:
        self.layers = list(layers)
        self._sites = sites
        units = [layer.units if layer.kind == "rectifier" else 0 for layer in layers]
        self.counts = UnitCounts(units, several=several)
        self._lookout = Lookout(pl_module, {site.name for site in sites}, self._see)
        self._seen: dict[int, dict[Site, list[tuple[Tensor | None, Tensor]]]] = {}

    def start(self) -> None:
        """The forward pass of a step begins."""
        self._seen = {}
        self._lookout.start()

    def stop(self) -> None:
        """The forward pass is over, or will not be seen to its end."""
        self._lookout.stop()

    def drop(self) -> None:
        """Forget the step that is under way."""
        self._lookout.stop()
        self._seen = {}

    def finish(self, pl_module: LightningModule) -> None:
        """The step is over, its gradients are still there: add up.

        Raises:
            Exception: what went wrong while looking; the step counts as one in which nothing was seen.
        """
        self._lookout.stop()
        seen, self._seen = self._seen, {}
        if self._lookout.error is not None:
            self.counts.update({})
            raise self._lookout.error
        kept: dict[int, tuple[Tensor | None, Tensor | None, Tensor]] = {}
        for index, by_site in seen.items():
            if all(self._is_known(site) for site in by_site):
                kept[index] = self._together(index, [one for some in by_site.values() for one in some])
        if kept:
            self._follow(next(iter(kept.values()))[2].device)
            self._add_gradients(pl_module, kept)
        self.counts.update(kept)

    def _see(self, site: Site, nth: int, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor) -> None:
        ops = self._sites.get(site)
        if ops is None or type(made) is not Tensor or made.numel() == 0 or made.layout is not torch.strided:
            return
        index = ops[min(nth, len(ops) - 1)]
        if index == _NOBODY:
            return
        seen = self._look(self.layers[index], args, kwargs, made)
        if seen is not None:
            self._seen.setdefault(index, {}).setdefault(site, []).append(seen)

    def _look(
        self, layer: ActivationLayer, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor
    ) -> tuple[Tensor | None, Tensor] | None:
        if layer.kind == "attention":
            if layer.name == "softmax":
                scores, dim = args[0] if args else kwargs["input"], layer.dim
            else:
                scores, dim = attention_scores(*args, **kwargs), -1
            return None, attention_rows(scores, dim)
        if made.dim() < -layer.dim or made.shape[layer.dim] != layer.units:
            return None
        numbers = made.new_zeros(NUMBERS, dtype=torch.float32)
        if layer.kind == "squash":
            numbers[0] = saturation(made, layer.name)
            numbers[1] = 1.0
            return None, numbers
        numbers[0] = made.numel() // layer.units
        return silent_units(made, layer.dim, exact=layer.name in EXACT), numbers

    def _is_known(self, site: Site) -> bool:
        ops = self._sites[site]
        return len(set(ops)) == 1 or self._lookout.passed[site] == len(ops)

    def _together(self, index: int, parts: list[tuple[Tensor | None, Tensor]]) -> tuple[Tensor | None, None, Tensor]:
        silent, numbers = parts[0]
        for other, more in parts[1:]:
            silent = None if silent is None or other is None else silent * other
            numbers = numbers + more
        return silent, None, numbers

    def _add_gradients(
        self, pl_module: LightningModule, kept: dict[int, tuple[Tensor | None, Tensor | None, Tensor]]
    ) -> None:
        """Which units' parameters had a gradient; what cannot be told stays unknown."""
        wanted = {self.layers[i].parameter for i in kept if self.layers[i].kind == "rectifier"} - {None}
        gradients = {
            name: parameter.grad
            for name, parameter in ((plain_name(n), p) for n, p in pl_module.named_parameters())
            if name in wanted
        }
        for index, (silent, _, numbers) in kept.items():
            layer = self.layers[index]
            gradient = gradients.get(layer.parameter or "")
            if silent is not None and type(gradient) is Tensor and gradient.layout is torch.strided:
                fitting = [i for i, size in enumerate(gradient.shape) if size == layer.units]
                if len(fitting) == 1:
                    others = [i for i in range(gradient.dim()) if i != fitting[0]]
                    gradient = gradient.detach()
                    moved = (gradient.abs().amax(others) if others else gradient) != 0
                    kept[index] = silent, moved.float(), numbers

    def _follow(self, device: torch.device) -> None:
        if self.counts.looks.device != device:
            self.counts.to(device)
