"""Batch norms and dropout of a step run aside: measured, or made to act as in evaluation."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_tuning.measure import plain_name

__all__ = ["Call", "Normalizer", "Seen", "pooled"]

_PYTHON = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_NATIVE = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
"""The order of arguments of `F.batch_norm` and of `torch.batch_norm`."""

_DROPOUTS = frozenset(
    getattr(home, name)
    for home in (F, torch)
    for name in (
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "feature_alpha_dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
    )
    if hasattr(home, name)
)


class Call(NamedTuple):
    """Which call of which batch norm: the path of its module, and how many came before in the step."""

    path: str
    number: int


class Seen(NamedTuple):
    """The statistics of what a batch norm was given, and their distance from the running ones."""

    mean: Tensor
    var: Tensor
    distance: Tensor


class Normalizer(TorchFunctionMode):
    """Within it, batch norms in training mode are measured, or normalize by statistics that are not the batch's.

    Args:
        pl_module: whose batch norms they are.
        by: ``"batch"`` leaves them as they are; ``"themselves"`` too, unmeasured; ``"running"`` has them normalize by
            their running statistics; those that another ``Normalizer`` has :attr:`seen` are used in their place.
        drops: ``False`` switches dropout off (not that inside of recurrent layers and of fused attention).

    Attributes:
        seen: what each call was given, if they normalize by the batch.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        by: Literal["batch", "running", "themselves"] | dict[Call, Seen] = "batch",
        *,
        drops: bool = True,
    ) -> None:
        super().__init__()
        self.seen: dict[Call, Seen] = {}
        self._module, self._by, self._drops = pl_module, by, drops
        self._paths: dict[int, str] = {}
        self._calls: Counter[str] = Counter()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter it when buffers have their stand-ins."""
        named = self._module.named_buffers()
        self._paths = {id(buffer): plain_name(name).rpartition(".")[0] for name, buffer in named}
        with self:
            yield

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._by != "themselves" and (func is F.batch_norm or func is torch.batch_norm):
            names = _PYTHON if func is F.batch_norm else _NATIVE
            kwargs, args = {**dict(zip(names, args, strict=False)), **kwargs}, ()
            self._see(kwargs)
        elif not self._drops and func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)

    def _see(self, call: dict[str, Any]) -> None:
        """Measure the call, or make it one of evaluation."""
        mean, var = call.get("running_mean"), call.get("running_var")
        if not call.get("training") or mean is None or var is None:
            return
        path = self._paths.get(id(mean), "")
        which = Call(path, self._calls[path])
        self._calls[path] += 1
        if self._by == "batch":
            self.seen[which] = _look(call["input"].detach(), mean, var, call.get("eps", 1e-5))
        elif self._by == "running":
            call["training"] = False
        elif isinstance(self._by, dict) and which in self._by:
            mean, var, _ = self._by[which]
            call.update(training=False, running_mean=mean, running_var=var)


def pooled(batches: Sequence[dict[Call, Seen]]) -> dict[Call, Seen]:
    """The mean over several batches of what each call was given, as a batch norm with ``momentum=None`` keeps it."""
    calls = [call for call in batches[0] if all(call in batch for batch in batches)] if batches else []
    return {
        call: Seen(*(torch.stack([batch[call][i] for batch in batches]).mean(0) for i in range(3))) for call in calls
    }


def _look(input: Tensor, mean: Tensor, var: Tensor, eps: float) -> Seen:  # noqa: A002
    """Distances are in standard deviations and e-folds, averaged over channels."""
    over = [dimension for dimension in range(input.dim()) if dimension != 1]
    own_var, own_mean = torch.var_mean(input.float(), over)
    spread = var.float() + eps
    distance = ((own_mean - mean).abs() / spread.sqrt() + ((own_var + eps) / spread).log().abs()).mean()
    return Seen(own_mean.to(mean.dtype), own_var.to(var.dtype), distance)
