"""The model and the data that a command is about, built from what the command line names."""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_tuning.cli._config import UsageError, build, key_values, load_config, locate

__all__ = ["Subject", "subject_of", "trainer_settings", "with_train_loader"]

_TAKEN = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "max_epochs")
"""Of a config's ``trainer``: what changes the numbers of a step, or how far a schedule reaches."""


class Subject(NamedTuple):
    """What is looked at.

    Attributes:
        model: the LightningModule.
        data: the LightningDataModule, if one was named.
        trainer: the section of the config.
    """

    model: pl.LightningModule
    data: pl.LightningDataModule | None
    trainer: dict[str, Any]


def subject_of(arguments: argparse.Namespace, hparams: Mapping[str, Any] | None = None) -> Subject:
    """Build what ``arguments`` name: ``model``, ``arg``, ``data``, ``data_arg`` and ``config``, of ``command``.

    Args:
        arguments: of the command line.
        hparams: values for those arguments of the model that neither the command line nor a config gives. They are
            passed as they are: a ``class_path`` in them makes nothing.

    Raises:
        UsageError: if something is not named, is not there, or is of another kind.
    """
    config = {} if arguments.config is None else load_config(arguments.config)
    given = key_values(arguments.arg, "--arg")
    model = _made("model", arguments.model, config.get("model"), given, hparams or {})
    data = _made("data", arguments.data, config.get("data"), key_values(arguments.data_arg, "--data-arg"), {})
    if model is None:
        raise UsageError(
            f"name a LightningModule: lightning-tuning {arguments.command} {arguments.usage}, "
            "or --config FILE with a `model`."
        )
    for name, thing, kind in (("model", model, pl.LightningModule), ("data", data, pl.LightningDataModule)):
        if thing is not None and not isinstance(thing, kind):
            raise UsageError(f"the {name} must be a {kind.__name__}, got a {type(thing).__name__}.")
    return Subject(model, data, dict(config.get("trainer") or {}))


def with_train_loader(subject: Subject) -> Subject:
    """``subject``, that can be trained.

    Raises:
        UsageError: if neither the model nor the data module has a loader of training batches.
    """
    if not is_overridden("train_dataloader", subject.data or subject.model):
        owner = type(subject.data or subject.model).__name__
        raise UsageError(f"{owner} has no `train_dataloader`; name a LightningDataModule: --data module:Class.")
    return subject


def trainer_settings(subject: Subject) -> dict[str, Any]:
    """What its config says that changes the numbers of a step, or how far a schedule reaches."""
    return {name: subject.trainer[name] for name in _TAKEN if subject.trainer.get(name) is not None}


def _made(what: str, path: str | None, section: Any, arguments: Mapping[str, Any], hparams: Mapping[str, Any]) -> Any:
    """The model or the data: from a path, a section of the config, or both (then the section has the arguments)."""
    section = section if isinstance(section, Mapping) else {}
    if path is None and "class_path" not in section:
        if section or arguments:
            raise UsageError(f"the class of the {what} is not named: no `class_path`, and no module:Class for it.")
        return None
    own = section.get("init_args") or {} if "class_path" in section else section
    target = locate(path or section["class_path"])
    return build(_with_defaults(target, hparams), {**own, **arguments}, f"the {what}")


def _with_defaults(target: Any, hparams: Mapping[str, Any]) -> Any:
    """``target`` with those of ``hparams`` as defaults that it takes by name."""
    if not hparams:
        return target
    parameters = inspect.signature(target).parameters.values()
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    taken = {name: value for name, value in hparams.items() if any_name or name in named}
    made = functools.partial(target, **taken)
    made.__name__ = getattr(target, "__name__", str(target))  # type: ignore[attr-defined]  # for what `build` says
    return made
