"""What a user wants of the suite, from wherever it is said: environment, file, ``pyproject.toml``."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ENVIRONMENT", "Settings", "settings_here"]

ENVIRONMENT = "LIGHTNING_TUNING"
"""Name of the environment variable."""

TABLE = "lightning-tuning"
"""Under ``[tool]`` in ``pyproject.toml``."""

_WORDS = ("recommended", "check-only", "off")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that can be set outside of the code; ``None``: nothing is said of it.

    Attributes:
        select: see :class:`~lightning_tuning.TuningSuite`, and so the next seven.
        ignore: likewise.
        on_finding: likewise.
        per_path_ignores: likewise.
        severity: likewise.
        options: likewise.
        checks_only: likewise.
        log_findings: likewise.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    on_finding: str | None = None
    per_path_ignores: Mapping[str, Any] | None = None
    severity: Mapping[str, Any] | None = None
    options: Mapping[str, Mapping[str, Any]] | None = None
    checks_only: bool | None = None
    log_findings: bool | None = None

    def over(self, below: Settings) -> Settings:
        """These, and where they say nothing those ``below``.

        Example:
            >>> Settings(on_finding="raise").over(Settings(ignore=("LT3",), on_finding="warn"))
            Settings(select=None, ignore=('LT3',), on_finding='raise', per_path_ignores=None, severity=None, options=None, checks_only=None, log_findings=None)
        """  # noqa: E501  # the repr is one line
        own = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(below, **own)

    @classmethod
    def from_table(cls, table: object, origin: str) -> Settings:
        """Those of a table; keys may be written with ``-`` or ``_``.

        Raises:
            ValueError: naming ``origin``, the key, and the nearest one that is known.

        Example:
            >>> Settings.from_table({"ignor": ["LT3"]}, "pyproject.toml")
            Traceback (most recent call last):
            ...
            ValueError: pyproject.toml: `ignor` is no setting. Did you mean 'ignore'?
        """
        if not isinstance(table, Mapping):
            raise ValueError(f"{origin}: must be a table of settings, got {table!r}.")
        known = [field.name for field in dataclasses.fields(cls)]
        given: dict[str, Any] = {}
        for key, value in table.items():
            name = str(key).replace("-", "_")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0].replace('_', '-')!r}?" if near else f" Known are: {', '.join(known)}."
                raise ValueError(f"{origin}: `{key}` is no setting.{hint}")
            given[name] = tuple(value) if isinstance(value, list) else value
        for name in ("select", "ignore"):
            if name in given and not isinstance(given[name], tuple):
                raise ValueError(f"{origin}: `{name}` must be a list of codes, names or globs, got {given[name]!r}.")
        for name in ("checks_only", "log_findings"):
            if not isinstance(given.get(name, False), bool):
                raise ValueError(f"{origin}: `{name}` must be true or false, got {given[name]!r}.")
        for name in ("per_path_ignores", "severity", "options"):
            if not isinstance(given.get(name, {}), Mapping):
                raise ValueError(f"{origin}: `{name}` must be a table, got {given[name]!r}.")
        return cls(**given)

    @classmethod
    def from_variable(cls, text: str) -> Settings | None:
        """Those of the environment variable; ``None`` for ``"off"`` and an empty one.

        Args:
            text: ``"recommended"``, ``"check-only"``, ``"off"``; a selection such as ``"recommended,-LT405"`` or
                ``"LT3,LT4"``; or the path of a YAML file with the keys of ``[tool.lightning-tuning]``.

        Raises:
            ValueError: for anything else, and a file that cannot be read.

        Example:
            >>> Settings.from_variable("recommended,-LT405,-dropout-rate").ignore
            ('LT405', 'dropout-rate')
            >>> Settings.from_variable("off") is None
            True
        """
        text = text.strip()
        if text.lower() in ("", "0", "off", "false", "no"):
            return None
        if text.endswith((".yaml", ".yml")):
            return cls.from_table(_read_yaml(Path(text)), f"{ENVIRONMENT}={text}")
        words = [word.strip() for word in text.split(",") if word.strip()]
        base = [word.lower() for word in words if word.lower() in ("1", "on", "true", "yes", *_WORDS)]
        if "off" in base:
            raise ValueError(f"{ENVIRONMENT}={text}: 'off' stands alone.")
        others = [word for word in words if word.lower() not in base]
        ignore = tuple(word[1:] for word in others if word.startswith("-"))
        select = tuple(word for word in others if not word.startswith("-"))
        for word in select:
            is_word = word.replace("-", "").isalpha()  # a glob on names is none
            if is_word and (near := difflib.get_close_matches(word.lower(), _WORDS, n=1)):
                raise ValueError(f"{ENVIRONMENT}={text}: {word!r} is no setting. Did you mean {near[0]!r}?")
        return cls(select=select or None, ignore=ignore or None, checks_only=("check-only" in base) or None)


def settings_here() -> Settings:
    """What the environment says, and where it says nothing the nearest ``pyproject.toml`` with a table for us.

    Raises:
        ValueError: if one of them is broken; says which, and where.
    """
    variable = Settings.from_variable(os.environ.get(ENVIRONMENT, "")) or Settings()
    return variable.over(_of_project(Path.cwd()))


def _of_project(folder: Path) -> Settings:
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            continue
        if TABLE not in text:  # most have no table for us: they need not even be right
            continue
        try:
            table = tomllib.loads(text).get("tool", {}).get(TABLE)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from None
        if table is not None:
            return Settings.from_table(table, f"{path} [tool.{TABLE}]")
    return Settings()


def _read_yaml(path: Path) -> object:
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # comes with Lightning; most runs need none

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{ENVIRONMENT}={path}: {error}") from None
