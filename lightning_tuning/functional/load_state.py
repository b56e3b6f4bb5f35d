"""Load weights from any file of them into any module, and know what was loaded."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_tuning.functional.soundness import broken, held_state
from lightning_tuning.functional.state_file import read_state_file
from lightning_tuning.functional.state_names import likely_prefix, name_cleaner

__all__ = ["LoadReport", "load_state"]

_KEYS = ("state_dict", "model", "model_state_dict")
"""Under which a checkpoint has its weights: Lightning's, the four keys', torch's tutorials'."""

_SHOWN = 20
_EXTRA = "_extra_state"


@dataclasses.dataclass(frozen=True, repr=False)
class LoadReport:
    """What came of loading a file into a module; printed, it is a list for people.

    Attributes:
        path: of the file.
        loaded: names in the module that got their values from it.
        missing: names in the module that the file lacks, each with those of the file that are near.
        unexpected: names in the file that the module lacks, each with those of the module that are near.
        mismatched: names in both that do not fit, with the reason.
        cast: names whose dtype in the file was another, with both dtypes.
        hint: what would probably fit better, or ``""``.
    """

    path: str
    loaded: tuple[str, ...]
    missing: dict[str, tuple[str, ...]]
    unexpected: dict[str, tuple[str, ...]]
    mismatched: dict[str, str]
    cast: dict[str, str]
    hint: str = ""

    @property
    def is_complete(self) -> bool:
        """Every name of the one is in the other, and fits."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __repr__(self) -> str:
        counts = [f"{len(self.loaded)} loaded"]
        lines = []
        for what, found in (("missing", self.missing), ("unexpected", self.unexpected)):
            counts += [f"{len(found)} {what}"] if found else []
            near = {name: f" (near: {', '.join(others)})" if others else "" for name, others in found.items()}
            lines += _listed(what, near)
        for what, reasons in (("mismatched", self.mismatched), ("cast", self.cast)):
            counts += [f"{len(reasons)} {what}"] if reasons else []
            lines += _listed(what, {name: f": {reason}" for name, reason in reasons.items()})
        head = f"{Path(self.path).name}: {', '.join(counts)}"
        return "\n".join([head, *lines, *([f"  {self.hint}"] if self.hint else [])])


def load_state(
    path: str | os.PathLike[str],
    module: nn.Module,
    *,
    strict: bool = True,
    prefix: str | None = None,
    allow_non_finite: bool = False,
) -> LoadReport:
    """Load the weights in a file into ``module``: all of them or, with ``strict=False``, those that fit.

    Reads state dicts of ``torch.save`` (bare, or under ``state_dict``, ``model`` or ``model_state_dict`` among other
    things), safetensors, and Lightning's checkpoints. Nothing in the file is executed. The module is touched only when
    everything was looked at. ``_orig_mod.`` of compiled modules, and ``module.`` of parallel ones, are looked through
    on both sides; what shares its memory with a name that was loaded is not missing. Unlike the rest of this package it
    reads values, once, to see that they are finite.

    Args:
        path: of the file.
        module: what to load into; it stays on its device and keeps its dtypes.
        strict: every name has to be in both, and to fit. Default ``True``: a weight that was not loaded has random
            values, and nobody sees it.
        prefix: take the names that start with it, without it: ``"net."`` for the ``self.net`` of a LightningModule.
            Default ``None``: the names as they are. A near miss is said in the report.
        allow_non_finite: load NaN and infinity too. Default ``False``: such weights are of no use, and better found
            here than in the first output. (A mask of ``-inf`` in a buffer is well.)

    Returns:
        What was loaded, and what was not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no state dict, or a whole pickled module; if weights are not finite; with ``strict``, if
            names are missing, unexpected or do not fit, all of them listed.

    Example:
        >>> import tempfile, torch
        >>> net, folder = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), tempfile.TemporaryDirectory()
        >>> torch.save({f"net.{name}": value for name, value in net.state_dict().items()}, f"{folder.name}/a.pth")
        >>> load_state(f"{folder.name}/a.pth", net, prefix="net.")
        a.pth: 4 loaded
        >>> load_state(f"{folder.name}/a.pth", nn.Linear(2, 3), prefix="net.0", strict=False)
        a.pth: 2 loaded
        >>> load_state(f"{folder.name}/a.pth", nn.Linear(3, 3), prefix="net.0", strict=False)
        a.pth: 1 loaded, 1 mismatched
          mismatched weight: [3, 2] in the file, [3, 3] in the module
        >>> folder.cleanup()
    """
    path = Path(path)
    state = _named(_weights_of(read_state_file(path), path), prefix, path)
    clean = name_cleaner(module)
    targets = {clean(name): (name, value) for name, value in module.state_dict(keep_vars=True).items()}
    if state and all(name.startswith("module.") for name in state) and not any(n in targets for n in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    report, fitting = _compare(path, state, targets)
    buffers = {clean(name) for name, _ in module.named_buffers(remove_duplicate=False)}
    if not allow_non_finite and (sick := broken(held_state(fitting, buffers).items())):
        more = f" and {len(sick) - 1} more" if sick[1:] else ""
        raise ValueError(f"{path}: {sick[0]}{more} not finite. `allow_non_finite=True` loads it all the same.")
    if strict and not report.is_complete:
        raise ValueError(f"{path} does not fit {type(module).__name__}; nothing was loaded.\n{report!r}")
    module.load_state_dict({targets[name][0]: value for name, value in fitting.items()}, strict=False)
    return report


def _weights_of(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, Mapping):
        for key in _KEYS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and inner and _is_state(inner):
                return dict(inner)
        if _is_state(content):
            return dict(content)
    what = f"a dict of {', '.join(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"{path} holds no state dict, bare or under {', '.join(_KEYS)}; it holds {what}.")


def _is_state(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) or str(name).endswith(_EXTRA) for name, value in content.items())


def _named(state: dict[str, Any], prefix: str | None, path: Path) -> dict[str, Any]:
    state = {".".join(part for part in name.split(".") if part != "_orig_mod"): v for name, v in state.items()}
    if prefix is None:
        return state
    dotted = f"{prefix.rstrip('.')}."
    taken = {name.removeprefix(dotted): value for name, value in state.items() if name.startswith(dotted)}
    if not taken:
        heads = sorted({name.partition(".")[0] for name in state})
        raise ValueError(f"`prefix` must be in front of a name in {path}, got {prefix!r}; they start with {heads}.")
    return taken


def _compare(
    path: Path, state: dict[str, Any], targets: dict[str, tuple[str, Any]]
) -> tuple[LoadReport, dict[str, Any]]:
    mismatched, cast, fitting = {}, {}, {}
    for name, value in state.items():
        if name not in targets:
            continue
        own = targets[name][1]
        if reason := _misfit(value, own):
            mismatched[name] = reason
            continue
        fitting[name] = value
        if isinstance(value, Tensor) and value.dtype != own.dtype:
            cast[name] = f"{value.dtype} to {own.dtype}".replace("torch.", "")
    loaded_memory = {id(targets[name][1]) for name in fitting}
    absent = [name for name, (_, own) in targets.items() if name not in state and id(own) not in loaded_memory]
    unexpected = [name for name in state if name not in targets]
    report = LoadReport(
        path=str(path),
        loaded=tuple(fitting),
        missing={name: _near(name, unexpected) for name in absent},
        unexpected={name: _near(name, absent) for name in unexpected},
        mismatched=mismatched,
        cast=cast,
        hint=_hint(state, targets, len(fitting)),
    )
    return report, fitting


def _misfit(value: Any, own: Any) -> str:
    if not (isinstance(value, Tensor) and isinstance(own, Tensor)):
        return "" if isinstance(value, Tensor) == isinstance(own, Tensor) else "a tensor in one of the two alone"
    if is_lazy(own):
        return ""
    if value.shape != own.shape:
        return f"{list(value.shape)} in the file, {list(own.shape)} in the module"
    loses = (value.is_complex() and not own.is_complex()) or (value.is_floating_point() and not _is_real(own))
    return f"{value.dtype} in the file, {own.dtype} in the module".replace("torch.", "") if loses else ""


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _near(name: str, others: list[str]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(name, others[:1000], 2, 0.75))


def _hint(state: Mapping[str, Any], targets: Mapping[str, Any], fitting: int) -> str:
    prefix, count = likely_prefix(state, targets)
    if count > fitting:
        return f"`prefix={prefix!r}` fits {count} of {len(targets)} names of the module"
    prefix, count = likely_prefix(targets, state)
    if count > fitting:
        return f"{count} of {len(state)} names of the file are those of the module's `{prefix[:-1]}`: load into that"
    return ""


def _listed(what: str, items: Mapping[str, str]) -> list[str]:
    lines = [f"  {what} {name}{more}" for name, more in list(items.items())[:_SHOWN]]
    return [*lines, *([f"  {what} {len(items) - _SHOWN} more"] if len(items) > _SHOWN else [])]
